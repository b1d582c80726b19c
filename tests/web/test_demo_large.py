"""The demo page with a model as wide as large ones, on one thread: it stays alive, stops at once, and
holds the file once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from realm_build.site import Site
from tests.web.demo_page import DemoPage
from tests.web.main_thread import LONG_MS, MainThread
from tests.web.memory import Memory

PROMPT = "aa bb cc " * 450  # a second of prefill or more
STOP_MS = 200
STOPS = 3
HELD_ONCE = 1.2  # peak of all processes, by what the engine must hold
WEIGHTS_BESIDE = 48 << 20  # activations, tokenizer, stack: what the engine holds beside the file


@pytest.fixture
def demo(page: Page, demo_folder: Path) -> Iterator[DemoPage]:
    """Without special headers: one thread."""
    with Site({"/": demo_folder}, isolated=False) as running:
        demo = DemoPage(page, running.url)
        demo.compute_with("WebAssembly")
        yield demo


def choose(demo: DemoPage, wide: Path) -> None:
    demo.choose_file(wide)
    expect(demo.page.locator("#model-name")).to_have_text(wide.name)
    assert "1 thread" in demo.wait_ready()


def test_a_running_prefill_stops_at_once_and_blocks_nobody(demo: DemoPage, wide: Path) -> None:
    thread = MainThread(demo.page)
    thread.begin()
    choose(demo, wide)
    took = []
    for _ in range(STOPS):
        demo.begin(PROMPT)
        demo.page.wait_for_timeout(150)
        assert demo.page.locator(".message.assistant").last.get_attribute("aria-busy") == "true"
        assert not demo.page.locator(".message.assistant .text").last.inner_text(), "it answers already"
        took.append(demo.stop())
    demo.begin("aa")  # nothing of the stopped ones is still being computed
    expect(demo.page.locator(".message.assistant .text").last).not_to_be_empty()
    demo.stop()
    busy = thread.end()
    print(f"stopped after {[round(each, 1) for each in took]} ms; main thread: {busy}")
    assert min(took) < STOP_MS
    assert busy.own < LONG_MS


def test_a_chosen_file_is_held_once(demo: DemoPage, wide: Path) -> None:

    with Memory(os.getpid()) as memory:
        choose(demo, wide)
        demo.begin("aa bb")
        expect(demo.page.locator(".message.assistant .text").last).not_to_be_empty()
        demo.stop()
    held = megabytes(demo.page.locator("#memory").inner_text())
    file = wide.stat().st_size
    print(f"file {file >> 20} MiB, engine {held >> 20} MiB, peak of all processes {memory.peak_mib:.0f} MiB")
    assert held < file + WEIGHTS_BESIDE
    assert memory.peak_mib * 2**20 < HELD_ONCE * held


def megabytes(text: str) -> int:
    number, unit = text.split()
    assert unit == "MB"
    return int(number) * 10**6
