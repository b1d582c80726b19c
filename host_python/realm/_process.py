"""What the whole process shares: the sandbox, and one engine for each set of options. A fork starts anew.

Threads do not survive a fork, so an object made before it refuses to work in the child with a clear error.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from ._errors import error

if TYPE_CHECKING:
    from ._engine import Engine, EngineOptions
    from ._sandbox import Sandbox


class Process:
    """Made at the first use in a process; the engines in it live until the process ends."""

    _current: Process | None = None
    _guard = threading.Lock()

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._lock = threading.Lock()
        self._sandbox: Sandbox | None = None
        self._engines: dict[EngineOptions, Engine] = {}

    @classmethod
    def current(cls) -> Process:
        process = cls._current
        if process is None or process.pid != os.getpid():
            with cls._guard:
                process = cls._current
                if process is None or process.pid != os.getpid():
                    process = cls._current = Process()
        return process

    def sandbox(self) -> Sandbox:
        from ._sandbox import Sandbox

        with self._lock:
            if self._sandbox is None:
                self._sandbox = Sandbox()
            return self._sandbox

    def engine(self, options: EngineOptions) -> Engine:
        from ._engine import Engine

        with self._lock:
            if options not in self._engines:
                self._engines[options] = Engine(options)
            return self._engines[options]


def _renew_guard() -> None:
    """The lock may have been held by another thread at the moment of the fork."""
    Process._guard = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_guard)


def check_same_process(pid: int) -> None:
    if pid != os.getpid():
        raise error("closed", "this object was made before a fork; make a new Realm in the child process")
