"""How long the main thread of a page was busy at a stretch, from Chromium's own trace.

A long task in the page's eyes (PerformanceObserver) also counts the time in which other programs had the
processor; the trace has the time of the thread itself, so a loaded machine does not blur the answer.
"""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page

MARK = "the page of this test"


class MainThread:
    """Traces from its start to `longest`."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.events: list[dict[str, Any]] = []
        self.complete = False
        self.session = page.context.new_cdp_session(page)
        self.session.on("Tracing.dataCollected", lambda sent: self.events.extend(sent["value"]))
        self.session.on("Tracing.tracingComplete", lambda _: setattr(self, "complete", True))
        config = {"includedCategories": ["devtools.timeline", "toplevel", "blink.user_timing"]}
        self.session.send("Tracing.start", {"transferMode": "ReportEvents", "traceConfig": config})

    def longest(self) -> float:
        """Milliseconds of computing in the longest task."""
        self.page.evaluate("(name) => void performance.mark(name)", MARK)
        self.session.send("Tracing.end")
        while not self.complete:
            self.page.wait_for_timeout(20)
        [main] = {(event["pid"], event["tid"]) for event in self.events if event["name"] == MARK}
        tasks = [event for event in self.events if event["ph"] == "X" and "RunTask" in event["name"]]
        ours = [event["tdur"] for event in tasks if (event["pid"], event["tid"]) == main and "tdur" in event]
        assert ours, "the trace has no task of a page"
        return float(max(ours)) / 1000
