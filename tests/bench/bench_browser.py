"""Realm in Chromium, computing in WebAssembly: load, first token, prefill, decode of models of real shapes.

    python tests/bench/bench_browser.py [--threads 1 2] [--prefill 256] [--decode 32] MODEL...

Every model is measured in a page of its own. Times are meaningful only while nothing else runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, Playwright, sync_playwright

from realm_build import browser, node
from realm_build.site import Site

PAGE = """<!doctype html><title>Benchmark</title><script type="module">
import * as sdk from './realm/realm.mjs';
globalThis.sdk = sdk;</script>"""

ROUND = """async ([url, threads, prefill, decode]) => {
  const seconds = () => performance.now() / 1000;
  const realm = new globalThis.sdk.Realm({ backend: 'wasm', threads });
  const began = seconds();
  await realm.loadModel(url, { cache: 'never' });
  const load = seconds() - began;
  const text = async (length, salt) => { // about so many tokens; another salt shares no prefix with it
    const ids = Array.from({ length }, (_, i) => 300 + ((i * 7919 + salt * 131) % 30000));
    return realm.detokenize(ids);
  };
  const timed = async (prompt, maxTokens) => {
    const start = seconds();
    const made = await realm.generate(prompt, { maxTokens, temperature: 0, ignoreEnd: true });
    return { took: seconds() - start, made };
  };
  await timed(await text(32, 1), 4); // the engine's compiler has seen every loop
  const onFirst = await timed(await text(16, 2), 1);
  const onPrefill = await timed(await text(prefill, 3), 1);
  const onDecode = await timed(await text(16, 4), decode + 1);
  const tokens = onPrefill.made.promptTokens;
  const stats = await realm.stats();
  realm.dispose();
  return {
    load, first: onFirst.took, promptTokens: tokens, prefill: tokens / onPrefill.took,
    decode: onDecode.made.timings.tokensPerSecond, threads: stats.threads, kernels: stats.kernels,
  };
}"""


@contextmanager
def chromium(playwright: Playwright, profile: Path) -> Iterator[BrowserContext]:
    """Chromium as a child of this process, so that whatever keeps the machine quiet spares it."""
    flags = [*browser.QUIET, "--headless=new", "--no-sandbox", "--remote-debugging-port=0"]
    command = [str(browser.install()), *flags, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = profile / "DevToolsActivePort"
        while not port.exists() or not port.read_text():
            time.sleep(0.1)
        address = f"http://127.0.0.1:{port.read_text().splitlines()[0]}"
        yield playwright.chromium.connect_over_cdp(address).contexts[0]
    finally:
        process.kill()
        process.wait()


def measure(context: BrowserContext, site: Site, arguments: list[Any]) -> dict[str, Any]:
    page = context.new_page()
    page.set_default_timeout(0)
    page.goto(f"{site.url}bench.html")
    page.wait_for_function("globalThis.sdk")
    result: dict[str, Any] = page.evaluate(ROUND, arguments)
    page.close()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--threads", nargs="+", type=int, default=[2])
    parser.add_argument("--prefill", type=int, default=256)
    parser.add_argument("--decode", type=int, default=32)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, sync_playwright() as playwright:
        (Path(folder) / "bench.html").write_text(PAGE)
        with chromium(playwright, Path(folder) / "profile") as context:
            for model in options.models:
                folders = {"/": Path(folder), "/realm/": node.WEB_DIST, "/models/": model.resolve().parent}
                with Site(folders, isolated=True) as site:
                    for threads in options.threads:
                        arguments = [f"models/{model.name}", threads, options.prefill, options.decode]
                        print(model.stem, json.dumps(measure(context, site, arguments)), flush=True)


if __name__ == "__main__":
    main()
