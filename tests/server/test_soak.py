"""The long load of soak.py for a few seconds: whatever leaks with each request shows; files do not."""

from __future__ import annotations

from pathlib import Path

from tests.server import soak


def test_memory_and_files_stay_flat(tmp_path: Path) -> None:
    with soak.start(tmp_path) as live:
        files = soak.files_open(live)
        growth, counts = soak.soak(live, seconds=4.0, pause=0.02)
        assert len(counts) == 6, "every kind of request ran"
        assert growth < 2 * soak.GROWTH_MIB
        assert soak.files_open(live) <= files + 10
        assert live.terminate() == 0
