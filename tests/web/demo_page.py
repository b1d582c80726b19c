"""The demo page as its tests use it: opened, asked, its model changed; all through what a visitor sees."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page, expect

FRANCE = "What is the capital of France?"
READY_MS = 60_000  # a software WebGPU adapter on a loaded machine: compiling kernels takes it seconds
STOP = """() => new Promise((resolve) => {
    const began = performance.now();
    const message = [...document.querySelectorAll('.message.assistant')].at(-1);
    const observer = new MutationObserver(() => resolve(performance.now() - began));
    observer.observe(message, { attributes: true }); // aria-busy goes
    document.querySelector('#stop').click();
})"""


class DemoPage:
    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        page.goto(url)
        self.wait_ready()

    def wait_ready(self) -> str:
        """Until a model is there; returns what the page says about it."""
        status = self.page.locator("#status")
        expect(status).to_have_attribute("data-state", "ready", timeout=READY_MS)
        return status.inner_text()

    def wait_failed(self) -> str:
        """Until loading has failed; returns the page's words."""
        expect(self.page.locator("#status")).to_have_attribute("data-state", "failed", timeout=READY_MS)
        return self.page.locator("#problem").inner_text()

    def begin(self, question: str) -> None:
        self.page.get_by_label("Message", exact=True).fill(question)
        self.page.keyboard.press("Enter")

    def ask(self, question: str) -> str:
        self.begin(question)
        return self.answer()

    def answer(self) -> str:
        """The newest answer, once it is complete."""
        newest = self.page.locator(".message.assistant").last
        expect(newest).not_to_have_attribute("aria-busy", "true", timeout=READY_MS)
        return newest.locator(".text").inner_text()

    def stop(self) -> float:
        """Milliseconds from a click on Stop to the answer's end."""
        took: float = self.page.evaluate(STOP)
        return took

    def compute_with(self, backend: str, threads: int | None = None) -> str:
        if threads is not None:
            self.page.get_by_label("Threads").fill(str(threads))
            self.page.keyboard.press("Tab")
        self.page.get_by_role("radio", name=backend).check()
        self.page.wait_for_timeout(100)  # the change is acted on
        return self.wait_ready()

    def choose_file(self, *files: Path) -> None:
        self.page.set_input_files("#file", list(files))

    def open_address(self, address: str) -> None:
        self.page.get_by_label("Address of a GGUF file").fill(address)
        self.page.get_by_role("button", name="Load", exact=True).click()

    def choose_demo_model(self) -> None:
        self.page.get_by_role("button", name="Use the demo model").click()

    def model_name(self) -> str:
        return self.page.locator("#model-name").inner_text()
