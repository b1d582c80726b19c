"""One server with the demo model and an endless one, for all tests that do it no lasting harm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.live import LiveServer
from tests.unit.long_model import long_model

DEMO = Path(__file__).parents[2] / "demo_model" / "realm-demo.gguf"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models."""
    made = tmp_path_factory.mktemp("models")
    long_model(made)
    (made / "copy.gguf").write_bytes(DEMO.read_bytes())
    (made / "broken.gguf").write_bytes(b"GGUF" + bytes(100))
    return made


@pytest.fixture(scope="session")
def server(folder: Path) -> Iterator[LiveServer]:
    models = ["-m", f"demo={DEMO}", "-m", f"endless={folder / 'long.gguf'}"]
    with LiveServer(*models, "--models-dir", str(folder), "--body-bytes", "100000") as live:
        yield live
        assert live.terminate() == 0
        assert not [line for line in live.log if '"bug"' in line], live.log
