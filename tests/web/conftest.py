"""One Chromium for all tests of this folder, a page for each. A browser that cannot start fails them.

Tests that serve a folder get an origin of their own (a new port), and with it empty storage.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, Playwright, expect, sync_playwright

from realm_build import web
from realm_build.site import Site
from tests.bench import make_models
from tests.web import chromium

EXPECT_MS = 30_000  # a page on a busy machine; what must be fast is timed inside the page

WIDE = make_models.Shape(
    layers=2, width=2048, ff=5632, heads=32, heads_kv=4
)  # ops as long as those of a 1.1B model

expect.set_options(timeout=EXPECT_MS)


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="session")
def browser(playwright: Playwright, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    context = chromium.start(playwright, tmp_path_factory.mktemp("profile"))
    yield context
    context.close()


@pytest.fixture(scope="session")
def demo_folder() -> Path:
    """The demo page with the bundle, complete."""
    return web.stage()


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file with layers as wide as those of large models, but few."""
    path = tmp_path_factory.mktemp("models") / "wide.gguf"
    make_models.write_model(path, WIDE, make_models.all_q8_0)
    return path


@pytest.fixture
def demo_site(demo_folder: Path) -> Iterator[Site]:
    with Site({"/": demo_folder}) as running:
        yield running


@pytest.fixture
def page(browser: BrowserContext) -> Iterator[Page]:
    """A new page. What it fails to catch fails the test."""
    opened = browser.new_page()
    problems: list[str] = []
    opened.on("pageerror", lambda problem: problems.append(str(problem)))
    yield opened
    opened.close()
    assert not problems, problems
