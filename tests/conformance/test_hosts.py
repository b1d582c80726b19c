"""Every conformance case on every host, as pytest sees it: one test a case."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance import runner


@pytest.fixture(scope="module", params=list(runner.HOSTS))
def host(request: pytest.FixtureRequest) -> Iterator[runner.Host]:
    started = runner.Host(request.param)
    yield started
    started.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize("case", runner.load_cases(), ids=lambda case: case.name)
def test_case(host: runner.Host, case: runner.Case, folder: Path) -> None:
    assert not runner.outcome(host, case, folder)
