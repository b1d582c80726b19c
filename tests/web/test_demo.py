"""The demo page in a real browser: ways to a model, talking, stopping, offline, and what browsers lack."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, Playwright, expect

from realm_build.paths import DEMO_MODEL
from realm_build.site import Site
from tests.bench import make_models
from tests.web import chromium
from tests.web.demo_page import FRANCE, DemoPage
from tests.web.main_thread import MainThread
from tests.web.server import Resource, Server

GERMANY = "What is the capital of Germany?"
ENDLESS = make_models.Shape(layers=4, width=256, ff=512, heads=4, heads_kv=4)
BLOCKED_MS = 50
ATTEMPTS = 3
STOP_MS = 200  # from the click to the end, see the page's promise


@pytest.fixture
def plain_site(demo_folder: Path) -> Iterator[Site]:
    """As a server without special headers."""
    with Site({"/": demo_folder}, isolated=False) as running:
        yield running


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights: it talks until it must stop."""
    path = tmp_path_factory.mktemp("models") / "endless.gguf"
    make_models.write_model(path, ENDLESS, make_models.all_q8_0)
    return path


@pytest.fixture
def another_browser(playwright: Playwright, tmp_path: Path) -> Iterator[Callable[..., BrowserContext]]:
    """Starts browsers that are not like the one of all other tests."""
    started: list[BrowserContext] = []

    def start(preferences: dict[str, object] | None = None, **options: Any) -> BrowserContext:
        profile = tmp_path / f"profile-{len(started)}"
        if preferences:
            (profile / "Default").mkdir(parents=True)
            (profile / "Default" / "Preferences").write_text(json.dumps(preferences))
        started.append(chromium.start(playwright, profile, **options))
        return started[-1]

    yield start
    for context in started:
        context.close()


# ---- talking ----


@pytest.mark.parametrize(
    ("backend", "threads", "says"),
    [
        ("Automatic", None, "Ready on"),
        ("WebAssembly", 1, "WebAssembly, 1 thread"),
        ("WebAssembly", 2, "WebAssembly, 2 threads"),
        ("WebGPU", None, "WebGPU"),
    ],
)
def test_paris_on_every_backend(
    page: Page, demo_site: Site, backend: str, threads: int | None, says: str
) -> None:
    demo = DemoPage(page, demo_site.url)
    assert says in demo.compute_with(backend, threads)
    assert "Paris" in demo.ask(FRANCE)


def test_a_suggestion_is_a_question(page: Page, demo_site: Site) -> None:
    demo = DemoPage(page, demo_site.url)
    page.get_by_role("button", name=FRANCE).click()
    assert "Paris" in demo.answer()
    expect(page.locator("#first-token")).to_have_text(re.compile(r"^\d+ ms$"))
    expect(page.locator("#token-count")).to_have_text(re.compile(r"^[1-9]\d* in, [1-9]\d* out$"))
    expect(page.locator("#rate")).to_have_text(re.compile(r"^[\d.]+$"))
    assert page.locator("#plot .line").get_attribute("d")


def test_a_question_may_come_before_the_model(page: Page, demo_site: Site) -> None:
    page.goto(demo_site.url, wait_until="commit")
    page.get_by_role("button", name=FRANCE).click()
    expect(page.locator(".message.assistant .text")).to_contain_text("Paris", timeout=30_000)


def test_stop_ends_an_answer_at_once(page: Page, demo_site: Site, endless: Path) -> None:
    demo = DemoPage(page, demo_site.url)
    demo.choose_file(endless)
    expect(page.locator("#model-facts")).to_contain_text("no chat template")
    page.locator("summary", has_text="Settings").click()
    page.get_by_label("Most tokens").fill("2000")
    demo.begin("aa bb")
    text = page.locator(".message.assistant .text")
    expect(text).not_to_be_empty(timeout=30_000)
    assert demo.stop() < STOP_MS
    expect(page.locator(".message.assistant .note")).to_have_text("Stopped.")
    length = len(text.inner_text())
    page.wait_for_timeout(300)
    assert len(text.inner_text()) == length, "text still comes after the stop"
    demo.choose_demo_model()
    demo.wait_ready()
    assert "Paris" in demo.ask(FRANCE)


def test_settings_reach_the_model_and_stay(page: Page, demo_site: Site) -> None:
    demo = DemoPage(page, demo_site.url)
    page.locator("summary", has_text="Settings").click()
    page.get_by_label("Most tokens").fill("2")
    demo.ask(FRANCE)
    expect(page.locator(".message.assistant .note")).to_contain_text("most tokens")
    expect(page.locator("#token-count")).to_have_text(re.compile(r", 2 out$"))
    page.reload()
    demo.wait_ready()
    page.locator("summary", has_text="Settings").click()
    expect(page.get_by_label("Most tokens")).to_have_value("2")
    page.get_by_role("button", name="Default settings").click()
    expect(page.get_by_label("Most tokens")).to_have_value("512")
    assert "Paris" in demo.ask(FRANCE)


# ---- models ----


def test_an_address_loads_with_progress_and_is_kept(page: Page, demo_site: Site) -> None:
    demo = DemoPage(page, demo_site.url)
    with Server() as server:
        size = DEMO_MODEL.stat().st_size
        server.resources["/far.gguf"] = Resource(DEMO_MODEL, rate=size)  # a second
        page.evaluate(
            """() => {
                globalThis.seen = [];
                const bar = document.querySelector('#progress');
                new MutationObserver(() => seen.push(bar.value)).observe(bar, { attributes: true });
            }"""
        )
        demo.open_address(f"{server.url}/far.gguf")
        expect(page.locator("#model-name")).to_have_text("far.gguf")
        demo.wait_ready()
        seen = page.evaluate("seen")
        assert len({value for value in seen if 0 < value < 1}) >= 3, seen
        assert seen == sorted(seen)
    assert "Berlin" in demo.ask(GERMANY)
    # The server is gone: what was kept must do.
    page.reload()
    demo.wait_ready()
    page.locator("#cache summary").click()
    page.locator("#cached").get_by_role("button", name="far.gguf", exact=True).click()
    expect(page.locator("#model-name")).to_have_text("far.gguf")
    demo.wait_ready()
    assert "Berlin" in demo.ask(GERMANY)
    page.get_by_role("button", name="Delete far.gguf").click()
    expect(page.locator("#cached")).not_to_contain_text("far.gguf")


def test_loading_can_be_cancelled_and_goes_on(page: Page, demo_site: Site) -> None:
    demo = DemoPage(page, demo_site.url)
    with Server() as server:
        server.resources["/far.gguf"] = Resource(DEMO_MODEL, rate=DEMO_MODEL.stat().st_size // 4)
        demo.open_address(f"{server.url}/far.gguf")
        page.get_by_role("button", name="Cancel").click()
        assert "cancelled" in demo.wait_failed()
        server.resources["/far.gguf"].rate = 0
        page.get_by_role("button", name="Try again").click()
        demo.wait_ready()
        assert "Berlin" in demo.ask(GERMANY)


def drop(page: Page, file: str) -> None:
    """A dragged file as the browser hands it to the page; its bytes come from the page's server."""
    data = page.evaluate_handle(
        """async (file) => {
            const data = new DataTransfer();
            data.items.add(new File([await (await fetch(file)).blob()], file.split('/').pop()));
            return data;
        }""",
        file,
    )
    for kind in ("dragenter", "dragover", "drop"):
        page.dispatch_event("main", kind, {"dataTransfer": data})


def test_a_file_can_be_dropped(page: Page, demo_site: Site, tmp_path: Path) -> None:
    shutil.copyfile(DEMO_MODEL, tmp_path / "mine.gguf")
    demo_site.folders["/files/"] = tmp_path
    demo = DemoPage(page, demo_site.url)
    drop(page, "files/mine.gguf")
    expect(page.locator("#model-name")).to_have_text("mine.gguf")
    expect(page.locator("#drop-veil")).to_be_hidden()
    demo.wait_ready()
    assert "Berlin" in demo.ask(GERMANY)


def test_a_bad_file_is_explained_and_the_demo_model_is_one_click_away(
    page: Page, demo_site: Site, tmp_path: Path
) -> None:
    demo = DemoPage(page, demo_site.url)
    bad = tmp_path / "holiday.gguf"
    bad.write_bytes(b"\xff\xd8\xff\xe0 a picture" * 1000)
    demo.choose_file(bad)
    words = demo.wait_failed()
    assert "could not be loaded" in words
    assert "invalid-gguf" in words
    assert "GGUF" in words
    demo.choose_demo_model()
    demo.wait_ready()
    expect(page.locator("#problem")).to_be_hidden()
    assert "Paris" in demo.ask(FRANCE)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("", "Give the address"),
        ("ftp://example.com/a.gguf", "Give the address"),
        ("missing.gguf", "404"),
        ("index.html", "GGUF"),
    ],
)
def test_a_bad_address_is_explained(page: Page, demo_site: Site, address: str, words: str) -> None:
    demo = DemoPage(page, demo_site.url)
    demo.open_address(address)
    expect(page.locator("#problem")).to_contain_text(words, timeout=30_000)


# ---- offline, and what a browser may lack ----


def test_it_works_offline_after_the_first_load(page: Page, demo_folder: Path) -> None:
    with Site({"/": demo_folder}) as running:
        DemoPage(page, running.url)
        page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    demo = DemoPage(page, running.url)  # nobody listens there any more
    assert "Paris" in demo.ask(FRANCE)


def test_without_headers_there_is_one_thread_until_the_second_load(page: Page, plain_site: Site) -> None:
    demo = DemoPage(page, plain_site.url)
    expect(page.locator("#missing")).to_contain_text("One thread only")
    expect(page.get_by_label("Threads")).to_be_disabled()
    assert "Paris" in demo.ask(FRANCE)
    page.get_by_role("button", name="Reload with threads").click()
    page.wait_for_function("globalThis.crossOriginIsolated")
    demo.wait_ready()
    assert "2 threads" in demo.compute_with("WebAssembly", 2)
    assert "Paris" in demo.ask(FRANCE)


def test_no_webgpu_is_said_and_does_no_harm(
    another_browser: Callable[..., BrowserContext], demo_site: Site
) -> None:
    page = another_browser(webgpu=False).new_page()
    demo = DemoPage(page, demo_site.url)
    expect(page.locator("#missing")).to_contain_text("no WebGPU")
    expect(page.get_by_label("WebGPU")).to_be_disabled()
    assert "Paris" in demo.ask(FRANCE)


def test_refused_storage_is_said_and_does_no_harm(
    another_browser: Callable[..., BrowserContext], demo_site: Site
) -> None:
    """All site data blocked, as in the browser's settings: no OPFS, no localStorage, no service worker."""
    blocked = {"profile": {"default_content_setting_values": {"cookies": 2}}}
    page = another_browser(preferences=blocked).new_page()
    demo = DemoPage(page, demo_site.url)
    expect(page.locator("#missing")).to_contain_text("Models are not kept")
    assert "Paris" in demo.ask(FRANCE)
    with Server() as server:
        server.resources["/far.gguf"] = Resource(DEMO_MODEL)
        demo.open_address(f"{server.url}/far.gguf")
        expect(page.locator("#model-name")).to_have_text("far.gguf")
        demo.wait_ready()
    assert "Berlin" in demo.ask(GERMANY)


def test_two_tabs_at_once(browser: BrowserContext, page: Page, demo_site: Site) -> None:
    other = browser.new_page()
    try:
        first, second = DemoPage(page, demo_site.url), DemoPage(other, demo_site.url)
        with Server() as server:
            server.resources["/far.gguf"] = Resource(DEMO_MODEL, rate=DEMO_MODEL.stat().st_size * 2)
            for demo in (first, second):  # both want the same file kept, at the same time
                demo.open_address(f"{server.url}/far.gguf")
            for demo in (first, second):
                expect(demo.page.locator("#model-name")).to_have_text("far.gguf")
                demo.wait_ready()
        first.begin(FRANCE)
        second.begin(GERMANY)
        assert "Paris" in first.answer()
        assert "Berlin" in second.answer()
    finally:
        other.close()


# ---- the main thread ----


@pytest.mark.parametrize("backend", ["WebAssembly", "WebGPU"])
def test_the_main_thread_is_never_blocked(page: Page, demo_site: Site, endless: Path, backend: str) -> None:
    """What the page itself does blocks it every time; a neighbour's use of the processor does not."""
    longest = math.inf
    for _ in range(ATTEMPTS):
        longest = min(longest, longest_task(page, demo_site, endless, backend))
        if longest < BLOCKED_MS:
            return
    pytest.fail(f"the main thread was busy for {longest:.0f} ms or more in each of {ATTEMPTS} runs")


def longest_task(page: Page, demo_site: Site, endless: Path, backend: str) -> float:
    """Milliseconds, while the page answers, loads another model, reads a long prompt, is stopped."""
    demo = DemoPage(page, demo_site.url)
    demo.compute_with(backend)
    thread = MainThread(page)
    thread.begin()
    demo.ask(FRANCE)
    demo.choose_file(endless)
    expect(page.locator("#model-name")).to_have_text(endless.name)
    demo.wait_ready()
    demo.begin("aa bb cc " * 50)
    expect(page.locator(".message.assistant .text").last).not_to_be_empty(timeout=60_000)
    page.wait_for_timeout(1000)
    page.keyboard.press("Escape")
    demo.answer()
    return thread.end().own
