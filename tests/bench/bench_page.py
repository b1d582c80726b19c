"""The demo page with a large file that is chosen in it: does the page stay alive, and what does it hold?

    python tests/bench/bench_page.py [--threads 1] [--backend WebAssembly] MODEL

Prints the page's longest tasks while the file loads and while a long prompt is read, stopped and answered:
what PerformanceObserver reports, which counts other programs' use of the processor too, and the thread's own
time. Then how long a stop click takes to end a running prefill, and what all processes of Chromium hold
together at most above what they held before, beside what the engine says it holds. Times are meaningful only
while nothing else runs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import CDPSession, Page, expect, sync_playwright

from realm_build import web
from realm_build.site import Site
from tests.bench.bench_browser import chromium
from tests.web.demo_page import DemoPage
from tests.web.main_thread import MainThread
from tests.web.memory import Memory

OBSERVE = """globalThis.longTasks = [];
new PerformanceObserver((list) => longTasks.push(...list.getEntries().map(({ duration }) => duration)))
  .observe({ type: 'longtask', buffered: true });"""
LONG_PROMPT = "aa bb cc " * 60
PREFILL_SECONDS = (0.3, 1.0, 1.7)  # of a prefill before its stop
STEADY_SECONDS = 1.0


def choose(session: CDPSession, model: Path) -> None:
    """As a visitor does; the driver itself would copy the file."""
    document = session.send("DOM.getDocument")
    found = session.send("DOM.querySelector", {"nodeId": document["root"]["nodeId"], "selector": "#file"})
    session.send("DOM.setFileInputFiles", {"nodeId": found["nodeId"], "files": [str(model.resolve())]})


def load(page: Page, model: Path) -> float:
    began = time.perf_counter()
    choose(page.context.new_cdp_session(page), model)
    expect(page.locator("#model-name")).to_have_text(model.name)
    expect(page.locator("#status")).to_have_attribute("data-state", "ready", timeout=50_000)
    return time.perf_counter() - began


def stops(demo: DemoPage) -> list[float]:
    """Milliseconds from a click on Stop to the end of a prefill."""
    took = []
    for seconds in PREFILL_SECONDS:
        demo.begin(LONG_PROMPT)
        demo.page.wait_for_timeout(seconds * 1000)
        assert not demo.page.locator(".message.assistant .text").last.inner_text(), "it answers already"
        took.append(round(demo.stop(), 1))
    return took


def measure(page: Page, root: int, site: Site, options: argparse.Namespace) -> dict[str, Any]:
    page.add_init_script(OBSERVE)
    thread = MainThread(page)
    demo = DemoPage(page, site.url)
    demo.compute_with(options.backend, options.threads if site.isolated else None)
    page.wait_for_timeout(STEADY_SECONDS * 1000)
    starting = page.evaluate("longTasks.splice(0)")
    with Memory(root) as memory:
        seconds = load(page, options.model)
        page.wait_for_timeout(STEADY_SECONDS * 1000)
        loaded = memory.peak_mib
        took = stops(demo)
        demo.begin("aa bb")
        expect(page.locator(".message.assistant .text").last).not_to_be_empty(timeout=30_000)
        page.wait_for_timeout(2000)
        page.keyboard.press("Escape")
        demo.answer()
    return {
        "fileMiB": round(options.model.stat().st_size / 2**20, 1),
        "loadSeconds": round(seconds, 2),
        "peakMiB": {"loading": round(loaded), "in all": round(memory.peak_mib)},
        "engine": page.locator("#memory").inner_text(),
        "stopMilliseconds": took,
        "longTasks": {"of the page's start": starting, "with the model": page.evaluate("longTasks")},
        "longestTaskOwnMilliseconds": round(thread.longest(), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backend", default="WebAssembly")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, sync_playwright() as playwright:
        isolated = options.threads > 1
        with (
            Site({"/": web.stage()}, isolated=isolated) as site,
            chromium(playwright, Path(folder) / "profile") as (context, root),
        ):
            for other in context.pages:
                other.close()
            print(json.dumps(measure(context.new_page(), root, site, options), indent=2))


if __name__ == "__main__":
    main()
