"""A page with nothing but the SDK, which loads a model in WebAssembly and streams an answer into itself."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page

from realm_build.site import Site

PAGE = """<!doctype html><title>SDK</title><script type="module">
import * as sdk from '../realm/realm.mjs';
globalThis.sdk = sdk;</script><p id="out"></p>"""
ANSWER = """async ([file, threads, prompt, maxTokens]) => {
    const realm = new sdk.Realm({ backend: 'wasm', threads });
    await realm.loadModel(file, { cache: 'never', onProgress: (done) => (document.title = `${done}`) });
    for await (const piece of realm.streamTokens(prompt, { maxTokens, temperature: 0, ignoreEnd: true })) {
        document.getElementById('out').append(piece);
    }
    const { threads: used } = await realm.stats();
    realm.dispose();
    return used;
}"""


class SdkPage:
    """Served from a folder of its own beside `realm` and `models`."""

    def __init__(self, page: Page, site: Site, folder: Path) -> None:
        self.page = page
        (folder / "index.html").write_text(PAGE)
        site.folders["/sdk/"] = folder
        page.goto(f"{site.url}sdk/")
        page.wait_for_function("globalThis.sdk")

    def answer(self, model: Path, threads: int, prompt: str, tokens: int) -> str:
        used = self.page.evaluate(ANSWER, [f"../models/{model.name}", threads, prompt, tokens])
        assert used == threads
        return self.page.locator("#out").inner_text()
