"""The adapters as a fixture: each test runs on lavapipe (f16, subgroups of 8) and SwiftShader (no f16, 4)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from realm_build import software_gpu
from tests.gpu.bench import Gpu


@pytest.fixture(scope="session", params=software_gpu.ADAPTERS)
def gpu(request: pytest.FixtureRequest) -> Iterator[Gpu]:
    device = Gpu(request.param)
    yield device
    device.close()
