"""Structured logs: one JSON object a line, written by a thread of its own.

Serving never waits for the log: lines go into a bounded queue, and what does not fit or cannot be written
(a full disk, a pipe nobody reads) is counted and dropped. Prompts, answers and keys are never logged.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import structlog

QUEUE_LINES = 10_000
TRACEBACKS = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)  # locals are prompts and keys
Log = structlog.typing.FilteringBoundLogger


class LineWriter:
    """Writes lines to a file or standard error. `lost` counts those that did not make it."""

    def __init__(self, path: Path | None) -> None:
        self.lost = 0
        self._queue: queue.Queue[str | None] = queue.Queue(QUEUE_LINES)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._file = os.open(path, flags, 0o640) if path else os.dup(sys.stderr.fileno())
        self._thread = threading.Thread(target=self._run, name="realm-log", daemon=True)
        self._thread.start()

    def put(self, line: str) -> None:
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            self.lost += 1

    def close(self) -> None:
        """Writes what is queued, waiting a second at most."""
        try:
            self._queue.put(None, timeout=1.0)
        except queue.Full:
            return
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        while (line := self._queue.get()) is not None:
            data = line.encode("utf-8", "backslashreplace") + b"\n"
            try:
                while data:
                    data = data[os.write(self._file, data) :]
            except OSError:
                self.lost += 1
        os.close(self._file)


class Logs:
    def __init__(self, path: Path | None = None) -> None:
        self.writer = LineWriter(path)
        self.log: Log = structlog.wrap_logger(
            None,
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.ExceptionRenderer(TRACEBACKS),
                structlog.processors.EventRenamer("event"),
                structlog.processors.JSONRenderer(),
                self._write,
            ],
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
            cache_logger_on_first_use=False,
        )

    def _write(self, logger: Any, method: str, rendered: Any) -> MutableMapping[str, Any]:
        self.writer.put(str(rendered))
        raise structlog.DropEvent

    def take_standard_logging(self) -> None:
        """uvicorn, asyncio and guests log by the standard library: into the same file."""
        root = logging.getLogger()
        root.handlers[:] = [_Forward(self.log)]
        root.setLevel(logging.WARNING)

    def close(self) -> None:
        self.writer.close()


class _Forward(logging.Handler):
    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        fields = {"exception": self.formatException(record)} if record.exc_info else {}
        self._log.log(record.levelno, record.getMessage(), logger=record.name, **fields)

    @staticmethod
    def formatException(record: logging.LogRecord) -> str:
        return logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
