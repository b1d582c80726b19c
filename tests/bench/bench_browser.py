"""Realm in Chromium, computing in WebAssembly: load, first token, prefill, decode of models of real shapes.

    python tests/bench/bench_browser.py [--threads 1 2] [--prefill 256] [--decode 32] [--rounds 3]
                                        [--wllama FOLDER] MODEL...

Every round is a page of its own. With the folder of an installed npm package @wllama/wllama its pages take
turns with Realm's, on the same prompts, and medians of the ratios are printed. Memory is what all processes
of Chromium hold together at most, shared pages counted once, above what they held before the model came.
Times are meaningful only while nothing else runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
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
from tests.web.memory import Memory

PAGE = """<!doctype html><title>Benchmark</title><script type="module">
import * as sdk from './realm/realm.mjs';
globalThis.sdk = sdk;</script>"""
WLLAMA_PAGE = """<!doctype html><title>Benchmark</title><script type="module">
import { Wllama } from './wllama/esm/index.js';
globalThis.sdk = { Wllama };</script>"""

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
  const prompts = [await text(32, 1), await text(16, 2), await text(prefill, 3), await text(16, 4)];
  await timed(prompts[0], 4); // the engine's compiler has seen every loop
  const onFirst = await timed(prompts[1], 1);
  const onPrefill = await timed(prompts[2], 1);
  const onDecode = await timed(prompts[3], decode + 1);
  const tokens = onPrefill.made.promptTokens;
  const stats = await realm.stats();
  realm.dispose();
  return {
    load, first: onFirst.took, promptTokens: tokens, prefill: tokens / onPrefill.took,
    decode: onDecode.made.timings.tokensPerSecond, threads: stats.threads, kernels: stats.kernels, prompts,
  };
}"""

WLLAMA_ROUND = """async ([url, threads, prompts, decode]) => {
  const seconds = () => performance.now() / 1000;
  const paths = { default: './wllama/esm/wasm/wllama.wasm' };
  const wllama = new globalThis.sdk.Wllama(paths, { suppressNativeLog: true });
  const began = seconds();
  const blob = await (await fetch(url)).blob();
  await wllama.loadModel([blob], { n_ctx: 2048, n_gpu_layers: 0, n_threads: threads });
  const load = seconds() - began;
  const timed = async (prompt, max_tokens) => {
    const start = seconds();
    const settings = { prompt, max_tokens, temperature: 0, ignore_eos: true, cache_prompt: false };
    const made = await wllama.createCompletion(settings);
    return { took: seconds() - start, made };
  };
  await timed(prompts[0], 4);
  const onFirst = await timed(prompts[1], 1);
  const onPrefill = await timed(prompts[2], 1);
  const onDecode = await timed(prompts[3], decode + 1);
  const tokens = onPrefill.made.usage.prompt_tokens, made = onDecode.made.usage.completion_tokens;
  await wllama.exit();
  return {
    load, first: onFirst.took, promptTokens: tokens, prefill: tokens / onPrefill.took,
    decode: onDecode.made.timings?.predicted_per_second ?? (made - 1) / (onDecode.took - onFirst.took), made,
  };
}"""


@contextmanager
def chromium(playwright: Playwright, profile: Path) -> Iterator[tuple[BrowserContext, int]]:
    """Chromium as a child of this process, so that whatever keeps the machine quiet spares it."""
    flags = [*browser.QUIET, "--headless=new", "--no-sandbox", "--remote-debugging-port=0"]
    command = [str(browser.install()), *flags, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = profile / "DevToolsActivePort"
        while not port.exists() or not port.read_text():
            time.sleep(0.1)
        address = f"http://127.0.0.1:{port.read_text().splitlines()[0]}"
        yield playwright.chromium.connect_over_cdp(address).contexts[0], process.pid
    finally:
        process.kill()
        process.wait()


def measure(
    context: BrowserContext, root: int, site: Site, name: str, script: str, arguments: list[Any]
) -> dict[str, Any]:
    page = context.new_page()
    page.set_default_timeout(0)
    page.goto(f"{site.url}{name}.html")
    page.wait_for_function("globalThis.sdk")
    with Memory(root) as memory:
        result: dict[str, Any] = page.evaluate(script, arguments)
    result["peakMiB"] = round(memory.peak_mib)
    page.close()
    return result


def compare(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str:
    """Median and spread of the ratios of neighbouring rounds; above 1 Realm is ahead."""
    lines = []
    for name, less_is_better in (
        ("load", True),
        ("first", True),
        ("prefill", False),
        ("decode", False),
        ("peakMiB", True),
    ):
        ratios = [
            b[name] / a[name] if less_is_better else a[name] / b[name]
            for a, b in zip(ours, theirs, strict=True)
        ]
        lines.append(f"  {name}: {statistics.median(ratios):.2f}x ({min(ratios):.2f}-{max(ratios):.2f})")
    return "\n".join(lines)


def run_rounds(
    context: BrowserContext, root: int, site: Site, model: str, threads: int, options: argparse.Namespace
) -> None:
    ours, theirs = [], []
    for _ in range(options.rounds):
        arguments = [f"models/{model}", threads, options.prefill, options.decode]
        own = measure(context, root, site, "bench", ROUND, arguments)
        prompts = own.pop("prompts")
        ours.append(own)
        print(model, "realm", json.dumps(own), flush=True)
        if options.wllama:
            arguments = [f"models/{model}", threads, prompts, options.decode]
            theirs.append(measure(context, root, site, "wllama", WLLAMA_ROUND, arguments))
            print(model, "wllama", json.dumps(theirs[-1]), flush=True)
    if theirs:
        print(f"{model}, {threads} threads, Realm beside wllama:\n{compare(ours, theirs)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--threads", nargs="+", type=int, default=[2])
    parser.add_argument("--prefill", type=int, default=256)
    parser.add_argument("--decode", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--wllama", type=Path, help="folder of an installed @wllama/wllama")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, sync_playwright() as playwright:
        (Path(folder) / "bench.html").write_text(PAGE)
        (Path(folder) / "wllama.html").write_text(WLLAMA_PAGE)
        with chromium(playwright, Path(folder) / "profile") as (context, root):
            for model in options.models:
                folders = {"/": Path(folder), "/realm/": node.WEB_DIST, "/models/": model.resolve().parent}
                if options.wllama:
                    folders["/wllama/"] = options.wllama.resolve()
                with Site(folders, isolated=True) as site:
                    for threads in options.threads:
                        run_rounds(context, root, site, model.name, threads, options)


if __name__ == "__main__":
    main()
