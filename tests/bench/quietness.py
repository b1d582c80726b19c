"""Whether this machine is quiet enough to measure: what other processes used of the processors just now.

The load average lags by a minute and counts what waits for a disk, so processor time is looked at itself.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

LOOK_SECONDS = 0.5
MOST_BUSY = 0.10  # processors that others may keep busy


def busy_processors(seconds: float = LOOK_SECONDS) -> float:
    """How many processors were busy, this process sleeping meanwhile; 0 where the system does not tell."""
    if not Path("/proc/stat").exists():
        return 0.0
    before = _busy_ticks()
    time.sleep(seconds)
    return (_busy_ticks() - before) / os.sysconf("SC_CLK_TCK") / seconds


def disturbance() -> str | None:
    """What speaks against measuring now."""
    busy = busy_processors()
    if busy <= MOST_BUSY:
        return None
    load = os.getloadavg()[0]
    return f"other processes keep {busy:.1f} of {os.cpu_count()} processors busy (load average {load:.1f})"


def _busy_ticks() -> int:
    """Of all processors since the start: user, nice, system, irq, softirq, steal; guests are in user."""
    user, nice, system, _idle, _wait, irq, soft, steal = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return user + nice + system + irq + soft + steal
