"""The conformance adapter of the browser host: one JSON request a line in, one JSON answer a line out.

A page of a server of its own imports the bundle as any page would; Chromium runs it. The argument says what
computes: webgpu, wasm (one thread), wasm-threads (the page is cross-origin isolated).
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

from playwright.sync_api import Page, sync_playwright

from realm_build import web
from realm_build.site import Site
from tests.web import chromium

HERE = Path(__file__).parent
PAGE = """<!doctype html><title>Conformance</title><script type="module">
import * as sdk from './realm/realm.mjs';
import { answerer } from './conformance/operations.mjs';
// As a file that is at hand: these cases are about models, those of downloads stand in tests/web.
const locate = async (address) => {
  const response = await fetch(address);
  const file = response.ok ? await response.blob() : new Blob();
  return file.size > 0 ? file : new URL(address, location.href).href;
};
const answer = answerer(sdk, OPTIONS, locate);
globalThis.ask = (line) => answer(JSON.parse(line)).then(JSON.stringify);
</script>"""
OPTIONS = {
    "webgpu": {"backend": "webgpu"},
    "wasm": {"backend": "wasm"},
    "wasm-threads": {"backend": "wasm", "threads": 2},
}


def main(computes: str) -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        root = Path(folder) / "root"
        root.mkdir()
        (root / "index.html").write_text(PAGE.replace("OPTIONS", json.dumps(OPTIONS[computes])))
        with contextlib.redirect_stdout(sys.stderr):  # standard output is for answers
            site_folder = web.stage()
        folders = {"/": root, "/realm/": site_folder / "realm", "/conformance/": HERE}
        with Site(folders, isolated=computes == "wasm-threads") as site:
            browser = chromium.start(playwright, Path(folder) / "profile")
            page = browser.new_page()
            page.goto(site.url)
            page.wait_for_function("globalThis.ask !== undefined")
            for line in sys.stdin:
                print(answer(page, site, json.loads(line)), flush=True)
            browser.close()


def answer(page: Page, site: Site, request: dict[str, Any]) -> str:
    """Models lie in several folders of the disk: each becomes one of the server's."""
    model = Path(request["model"])
    prefix = f"/models{model.parent.as_posix()}/"
    site.folders[prefix] = model.parent
    address = quote(prefix[1:] + model.name)
    made: str = page.evaluate("(line) => ask(line)", json.dumps({**request, "model": address}))
    return made


if __name__ == "__main__":
    main(sys.argv[1])
