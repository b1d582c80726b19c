"""The main thread of a page while a large model loads and answers, in the demo page and with the SDK alone.

    python tests/bench/bench_page.py [--page demo sdk] [--threads 1 2] [--json FILE] MODEL

For each page and number of threads, between the choice of the file and the end of an answer: what
PerformanceObserver reports (tasks over 50 ms of wall time, `reported`), and from Chromium's trace the longest
task's wall time and the thread's own time. `before` are long tasks of the page's own start. Of the demo page
also how long a stop click takes to end a running prefill, and what all processes of Chromium hold together
at most above what they held before, beside what the engine says it holds. Times are meaningful only while
nothing else runs. With --json each measurement is appended to the file as a line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, CDPSession, Page, Playwright, expect, sync_playwright

from realm_build import web
from realm_build.site import Site
from tests.bench.bench_browser import chromium
from tests.web.demo_page import DemoPage
from tests.web.main_thread import MainThread
from tests.web.memory import Memory
from tests.web.sdk_page import SdkPage

LONG_PROMPT = "aa bb cc " * 60
PREFILL_SECONDS = (0.3, 1.0, 1.7)  # of a prefill before its stop
STEADY_SECONDS = 1.0
STREAM_SECONDS = 2.0
SDK_TOKENS = 16


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


def in_demo_page(
    page: Page, root: int, site: Site, options: argparse.Namespace, threads: int
) -> dict[str, Any]:
    thread = MainThread(page)
    demo = DemoPage(page, site.url)
    demo.compute_with(options.backend, threads if site.isolated else None)
    page.wait_for_timeout(STEADY_SECONDS * 1000)
    with Memory(root) as memory:
        thread.begin()
        seconds = load(page, options.model)
        loaded = memory.peak_mib
        took = stops(demo)
        demo.begin("aa bb")
        expect(page.locator(".message.assistant .text").last).not_to_be_empty(timeout=30_000)
        page.wait_for_timeout(STREAM_SECONDS * 1000)
        demo.stop()
        busy = thread.end()
    return {
        **asdict(busy),
        "loadSeconds": round(seconds, 2),
        "fileMiB": round(options.model.stat().st_size / 2**20, 1),
        "peakMiB": {"loading": round(loaded), "in all": round(memory.peak_mib)},
        "engine": page.locator("#memory").inner_text(),
        "stopMilliseconds": took,
    }


def with_sdk_alone(
    page: Page, root: int, site: Site, options: argparse.Namespace, threads: int
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        thread = MainThread(page)
        sdk = SdkPage(page, site, Path(folder))
        page.wait_for_timeout(STEADY_SECONDS * 1000)
        thread.begin()
        sdk.answer(options.model, threads, "aa bb cc " * 20, SDK_TOKENS)
        return asdict(thread.end())


def connect(playwright: Playwright, profile: Path) -> BrowserContext:
    port = profile / "DevToolsActivePort"
    while not port.exists() or not port.read_text():
        time.sleep(0.1)
    return playwright.chromium.connect_over_cdp(
        f"http://127.0.0.1:{port.read_text().splitlines()[0]}"
    ).contexts[0]


PAGES = {"demo": in_demo_page, "sdk": with_sdk_alone}


def measure(playwright: Playwright, options: argparse.Namespace, name: str, threads: int) -> dict[str, Any]:
    """In a browser and with a profile of its own."""
    folders = {"/": web.stage(), "/models/": options.model.resolve().parent}
    with (
        Site(folders, isolated=threads > 1) as site,
        chromium("about:blank", "--remote-debugging-port=0") as (root, profile),
    ):
        context = connect(playwright, profile)
        for other in context.pages:
            other.close()
        figures = PAGES[name](context.new_page(), root, site, options, threads)
    return {"model": options.model.stem, "page": name, "threads": threads, **figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--page", nargs="+", choices=PAGES, default=list(PAGES))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--backend", default="WebAssembly", help="of the demo page")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with sync_playwright() as playwright:
        for threads in options.threads:
            for name in options.page:
                line = json.dumps(measure(playwright, options, name, threads))
                print(line, flush=True)
                if options.json:
                    with options.json.open("a") as file:
                        file.write(f"{line}\n")


if __name__ == "__main__":
    main()
