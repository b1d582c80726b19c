"""The demo page for everybody: axe-core's rules, the keyboard, what a screen reader is told, small screens.

The pictures of it all are kept in build/screenshots, to be looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Page, expect

from realm_build.paths import BUILD, NODE_MODULES
from realm_build.site import Site
from tests.web.demo_page import FRANCE, DemoPage

SCREENSHOTS = BUILD / "screenshots"
AXE = NODE_MODULES / "axe-core" / "axe.min.js"


@dataclass(frozen=True)
class Look:
    name: str
    scheme: Literal["light", "dark"]
    width: int
    height: int


LOOKS = (
    Look("light", "light", 1280, 800),
    Look("dark", "dark", 1280, 800),
    Look("phone", "light", 390, 844),
    Look("phone-dark", "dark", 390, 844),
)


@pytest.fixture(params=LOOKS, ids=lambda look: look.name)
def look(request: pytest.FixtureRequest, page: Page) -> Iterator[Look]:
    chosen: Look = request.param
    page.emulate_media(color_scheme=chosen.scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": chosen.width, "height": chosen.height})
    yield chosen


def complaints(page: Page) -> list[str]:
    """What axe-core finds against WCAG 2.2 AA and good practice."""
    if not page.evaluate("typeof axe === 'object'"):
        page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run().then((result) => result.violations)")
    return [
        f"{rule['id']}: {node['html']} {node['failureSummary']}" for rule in found for node in rule["nodes"]
    ]


def overflow(page: Page) -> int:
    """Pixels by which the page is wider than the screen."""
    width: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return width


def test_every_state_in_every_look(page: Page, demo_site: Site, look: Look, tmp_path: Path) -> None:
    """Empty, answered, failed: no complaint, nothing wider than the screen; a picture of each."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    demo = DemoPage(page, demo_site.url)

    def inspect(state: str) -> None:
        page.screenshot(path=SCREENSHOTS / f"{look.name}-{state}.png")
        assert complaints(page) == []
        assert overflow(page) <= 0

    inspect("empty")
    demo.ask(FRANCE)
    demo.ask("Which currency is used in Japan?")
    inspect("answered")
    for summary in page.locator("summary").all():
        summary.click()
    bad = tmp_path / "holiday.gguf"
    bad.write_bytes(b"a picture" * 100)
    demo.choose_file(bad)
    demo.wait_failed()
    inspect("failed")
    page.screenshot(path=SCREENSHOTS / f"{look.name}-whole.png", full_page=True)


def focused(page: Page) -> str:
    """The accessible name of what has the focus, as far as this page needs it computed."""
    name: str = page.evaluate(
        """() => {
            const at = document.activeElement;
            return at.ariaLabel || at.labels?.[0]?.textContent.trim() || at.textContent.trim();
        }"""
    )
    return name


def test_a_conversation_without_a_mouse(page: Page, demo_site: Site) -> None:
    demo = DemoPage(page, demo_site.url)
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the message"
    page.keyboard.press("Enter")
    assert focused(page) == "Message"
    page.keyboard.type(FRANCE)
    page.keyboard.press("Enter")
    assert "Paris" in demo.answer()
    assert focused(page) == "Message"


def test_the_order_of_focus_is_that_of_the_page(page: Page, demo_site: Site) -> None:
    """From the first control to the last, each visible one once, from the conversation to the panel."""
    DemoPage(page, demo_site.url)
    names = []
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            break
        assert page.evaluate(
            "getComputedStyle(document.activeElement).outlineStyle"
        ) != "none" or page.evaluate(
            "document.activeElement.matches('input[type=radio], input[type=file]')"  # drawn on their labels
        )
        names.append(focused(page).partition(" (")[0])
    wanted = ["Skip to the message", FRANCE, "Message", "Send", "GGUF file", "Load", "Use the demo model"]
    wanted += ["Automatic", "Threads", "Settings", "Kept models"]
    assert [name for name in names if name in wanted] == wanted


def test_sending_and_stopping_keep_the_focus(page: Page, demo_site: Site) -> None:
    """Send and Stop take each other's place: whoever pressed one is not thrown to the top of the page."""
    demo = DemoPage(page, demo_site.url)
    page.get_by_label("Message", exact=True).fill(FRANCE)
    page.get_by_role("button", name="Send").focus()
    page.keyboard.press("Enter")
    demo.answer()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    assert focused(page) in ("Message", "Send")


def test_a_screen_reader_hears_whole_sentences_once(page: Page, demo_site: Site) -> None:
    demo = DemoPage(page, demo_site.url)
    page.evaluate(
        """() => {
            globalThis.heard = [];
            const region = document.querySelector('[aria-live=polite]#spoken');
            new MutationObserver(() => heard.push(region.textContent))
                .observe(region, { childList: true, characterData: true, subtree: true });
        }"""
    )
    answer = demo.ask(FRANCE)
    heard = [text.strip() for text in page.evaluate("heard") if text.strip()]
    assert " ".join(heard) == " ".join(answer.split())
    assert len(heard) < 1 + answer.count(".") + answer.count("!") + 1
    growing = page.locator(".message [aria-live], .messages[aria-live]")
    assert growing.count() == 0, "the growing text must not be read out again and again"


def test_errors_and_the_state_are_announced(page: Page, demo_site: Site, tmp_path: Path) -> None:
    demo = DemoPage(page, demo_site.url)
    expect(page.get_by_role("status").filter(has_text="Ready")).to_be_visible()
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"no model")
    demo.choose_file(bad)
    expect(page.get_by_role("alert")).to_contain_text("could not be loaded")
