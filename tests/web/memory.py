"""What a program and all that it started hold in memory, as Linux counts it: shared pages once (PSS).

That is everything a page costs: WebAssembly, JavaScript, compiled code, and what other processes of the
browser hold for it.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path


class Memory:
    """Samples the proportional set size of a process and its descendants: `peak_mib` above the beginning."""

    def __init__(self, root: int) -> None:
        self.root = root
        self.peak_mib = 0.0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.sample)

    def __enter__(self) -> Memory:
        self.before_mib = self.held_mib()
        self.thread.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self.ended.set()
        self.thread.join()

    def sample(self) -> None:
        while not self.ended.wait(0.25):
            self.peak_mib = max(self.peak_mib, self.held_mib() - self.before_mib)

    def held_mib(self) -> float:
        kib = 0
        for process in self.descendants():
            with contextlib.suppress(OSError):  # it ended meanwhile
                rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
                kib += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        return kib / 1024

    def descendants(self) -> list[int]:
        found = [self.root]
        for process in found:
            with contextlib.suppress(OSError):
                for children in Path(f"/proc/{process}/task").glob("*/children"):
                    found += [int(child) for child in children.read_text().split()]
        return found
