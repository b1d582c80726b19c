"""The main thread of a page stays free while a model as wide as large ones loads and answers in WebAssembly:
in the demo page and in a page with nothing but the SDK, with one thread and with two.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from realm_build.site import Site
from tests.web.demo_page import DemoPage
from tests.web.main_thread import LONG_MS, Busy, MainThread
from tests.web.sdk_page import SdkPage

PROMPT = "aa bb cc " * 40
TOKENS = 8
STREAM_MS = 500
BLOCK = """() => new Promise((resolve) => setTimeout(() => { // a task of the page, not of the driver
    const end = performance.now() + 150;
    while (performance.now() < end);
    resolve();
}))"""
TRIES = 3  # of what the page is told: other programs use the processors too


def in_demo_page(page: Page, folders: dict[str, Path], threads: int, model: Path) -> Busy:
    with Site(folders, isolated=threads > 1) as site:
        thread = MainThread(page)
        demo = DemoPage(page, site.url)
        demo.compute_with("WebAssembly", threads if site.isolated else None)
        thread.begin()
        demo.choose_file(model)
        expect(page.locator("#model-name")).to_have_text(model.name)
        assert f"{threads} thread" in demo.wait_ready()
        demo.begin(PROMPT)
        expect(page.locator(".message.assistant .text").last).not_to_be_empty()
        page.wait_for_timeout(STREAM_MS)
        demo.stop()
        return thread.end()


def with_sdk_alone(page: Page, folders: dict[str, Path], threads: int, model: Path) -> Busy:
    with Site(folders, isolated=threads > 1) as site:
        thread = MainThread(page)
        sdk = SdkPage(page, site, folders["/sdk/"])
        thread.begin()
        assert sdk.answer(model, threads, PROMPT, TOKENS)
        return thread.end()


@pytest.fixture
def folders(tmp_path: Path, demo_folder: Path, wide: Path) -> dict[str, Path]:
    return {"/": demo_folder, "/sdk/": tmp_path, "/models/": wide.parent}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("answer", [in_demo_page, with_sdk_alone], ids=["demo", "sdk"])
def test_loading_and_answering_never_block_it(
    page: Page,
    folders: dict[str, Path],
    wide: Path,
    answer: Callable[[Page, dict[str, Path], int, Path], Busy],
    threads: int,
) -> None:
    for _ in range(TRIES):
        busy = answer(page, folders, threads, wide)
        print(f"longest task: {busy.wall:.1f} ms, {busy.own:.1f} ms of its own; reported: {busy.reported}")
        assert busy.own < LONG_MS
        if not busy.reported:
            return
    raise AssertionError(f"tasks over {LONG_MS} ms in each of {TRIES} tries, the last time {busy.reported}")


def test_a_blocked_thread_is_found(page: Page, tmp_path: Path) -> None:
    """The measurement itself: a loop that keeps the thread is reported, and is the thread's own time."""
    with Site({"/": tmp_path}) as site:
        (tmp_path / "index.html").write_text("<!doctype html><title>Empty</title>")
        page.goto(site.url)
        thread = MainThread(page)
        thread.begin()
        page.evaluate(BLOCK)
        busy = thread.end()
    assert len(busy.reported) == 1
    assert busy.reported[0] >= 150
    assert busy.wall >= 150
    assert 0 < busy.own <= busy.wall
