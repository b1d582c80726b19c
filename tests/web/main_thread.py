"""How long the main thread of a page was busy at a stretch: what the page is told, and what a trace says.

A long task in the page's eyes (PerformanceObserver) also counts the time in which other programs, or the
engine's own threads, had the processor; the trace has the time of the thread itself beside it, so a loaded
machine does not blur the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from playwright.sync_api import Page

LONG_MS = 50  # what Chromium calls long; shorter tasks are not reported
OBSERVE = """() => {
    globalThis.longTasks = [];
    const observer = new PerformanceObserver((list) => longTasks.push(...list.getEntries()));
    observer.observe({ type: 'longtask', buffered: true });
    return performance.mark('begin').startTime;
}"""
REPORTED = """(since) => [true, false].map((after) => longTasks
    .filter((task) => task.startTime >= since === after).map((task) => task.duration))"""
CATEGORIES = ["devtools.timeline", "toplevel", "blink.user_timing"]


@dataclass(frozen=True)
class Busy:
    """Milliseconds of the longest tasks."""

    wall: float
    own: float  # of the thread, without the time that others had the processor
    reported: list[float]  # long tasks, as the page is told of them
    before: list[float]  # the same before `begin`: of the page's own start


class MainThread:
    """Of the time between `begin` and `end`."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.since = 0.0
        self.events: list[dict[str, Any]] = []
        self.complete = False
        self.session = page.context.new_cdp_session(page)
        self.session.on("Tracing.dataCollected", lambda sent: self.events.extend(sent["value"]))
        self.session.on("Tracing.tracingComplete", lambda _: setattr(self, "complete", True))

    def begin(self) -> None:
        self.page.evaluate("0")  # what Playwright sets up in a page is a long task of its own
        config = {"includedCategories": CATEGORIES}
        self.session.send("Tracing.start", {"transferMode": "ReportEvents", "traceConfig": config})
        self.since = self.page.evaluate(OBSERVE)

    def end(self) -> Busy:
        self.page.evaluate("void performance.mark('end')")
        self.page.wait_for_timeout(100)  # reports come late
        reported, before = self.page.evaluate(REPORTED, self.since)
        self.session.send("Tracing.end")
        while not self.complete:
            self.page.wait_for_timeout(20)
        tasks = self._tasks()
        wall, own = (max(task[name] for task in tasks) / 1000 for name in ("dur", "tdur"))
        return Busy(wall, own, reported, before)

    def _tasks(self) -> list[dict[str, Any]]:
        """Of the page's thread, between the marks."""
        begin, end = self._mark("begin"), self._mark("end")
        ours = [
            event for event in self.events if (event["pid"], event["tid"]) == (begin["pid"], begin["tid"])
        ]
        tasks = [
            event for event in ours if event["ph"] == "X" and "RunTask" in event["name"] and "tdur" in event
        ]
        found = [task for task in tasks if begin["ts"] <= task["ts"] < end["ts"]]
        assert found, "the trace has no task of the page"
        return found

    def _mark(self, name: str) -> dict[str, Any]:
        marks = [
            event for event in self.events if event["name"] == name and event["cat"] == "blink.user_timing"
        ]
        assert marks, f"the trace has no mark {name}"
        return marks[-1]
