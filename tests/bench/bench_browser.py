"""Realm in Chromium, computing in WebAssembly, beside wllama: load, first token, prefill, decode, memory.

    python tests/bench/bench_browser.py [--threads 1 2] [--prefill 256] [--decode 32] [--rounds 3]
                                        [--wllama FOLDER] [--json FILE] MODEL...
    python tests/bench/bench_browser.py --table FILE

Every figure comes from a browser of its own. With the folder of an installed npm package @wllama/wllama it
takes turns with Realm, on the same prompts. With --json each round is appended to the file as it ends, so
that rounds may be measured one by one; --table prints the medians of all rounds in such a file, with median
and spread of the rounds' ratios. Memory is what all processes of Chromium hold together at most, shared
pages counted once, above what they held before the model came. Times are meaningful only while nothing else
runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import queue
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realm_build import browser, node
from realm_build.site import Site
from tests.web.memory import Memory

CPU_INFO = Path("/proc/cpuinfo")
PAGE = """<!doctype html><title>Benchmark</title><script type="module">
import * as sdk from '%s';
const tell = (value) => fetch('result', { method: 'POST', body: JSON.stringify(value) });
const round = %s;
await tell('ready');
await new Promise((resolve) => setTimeout(resolve, %d));
round(...%s).then(tell, (problem) => tell({ error: String(problem?.stack ?? problem) }));
</script>"""
SDK, WLLAMA = "./realm/realm.mjs", "./wllama/esm/index.js"
CALM_MS = 1000  # a page waits so long before it begins, so that its memory can be looked at
PATIENCE_SECONDS = 1800

ROUND = """async (url, threads, prefill, decode) => {
  const seconds = () => performance.now() / 1000;
  const realm = new sdk.Realm({ backend: 'wasm', threads });
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

WLLAMA_ROUND = """async (url, threads, prompts, decode) => {
  const seconds = () => performance.now() / 1000;
  const paths = { default: './wllama/esm/wasm/wllama.wasm' };
  const wllama = new sdk.Wllama(paths, { suppressNativeLog: true });
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
def chromium(address: str, *flags: str) -> Iterator[tuple[int, Path]]:
    """Chromium on a page, as a child of this process, so that whatever keeps the machine quiet spares it.

    Its process and its profile. Nobody looks into it: DevTools, and so Playwright, would keep every answer's
    bytes in the page's memory.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        own = [*browser.QUIET, "--headless=new", "--no-sandbox", f"--user-data-dir={profile}"]
        command = [str(browser.install()), *own, *flags, address]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield process.pid, Path(profile)
        finally:
            process.kill()
            process.wait()


def measure(site: Site, name: str, sdk: str, script: str, arguments: list[Any]) -> dict[str, Any]:
    site.told = queue.SimpleQueue()
    page = PAGE % (sdk, script, CALM_MS, json.dumps(arguments))
    (site.folders["/"] / name).write_text(page)
    with chromium(f"{site.url}{name}") as (root, _):
        site.told.get(timeout=PATIENCE_SECONDS)
        with Memory(root) as memory:
            result: dict[str, Any] = json.loads(site.told.get(timeout=PATIENCE_SECONDS))
    if "error" in result:
        raise RuntimeError(f"{name}: {result['error']}")
    result["peakMiB"] = round(memory.peak_mib)
    return result


def run_round(site: Site, model: str, threads: int, options: argparse.Namespace) -> dict[str, Any]:
    arguments = [f"models/{model}", threads, options.prefill, options.decode]
    own = measure(site, "realm.html", SDK, ROUND, arguments)
    prompts = own.pop("prompts")
    made = {"model": Path(model).stem, "threads": threads, **place(), "realm": own}
    if options.wllama:
        arguments = [f"models/{model}", threads, prompts, options.decode]
        version = json.loads((options.wllama / "package.json").read_text())["version"]
        theirs = measure(site, "wllama.html", WLLAMA, WLLAMA_ROUND, arguments)
        made["wllama"] = {**theirs, "version": version}
    return made


def place() -> dict[str, str]:
    """When and where."""
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in CPU_INFO.read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return {"date": time.strftime("%Y-%m-%d"), "machine": f"{os.cpu_count()} x {processor}"}


# ---- tables ----


@dataclass(frozen=True)
class Figure:
    label: str
    key: str
    unit: str
    digits: int
    less_is_better: bool

    def shown(self, rounds: list[dict[str, Any]]) -> str:
        return f"{statistics.median(entry[self.key] for entry in rounds):.{self.digits}f} {self.unit}"

    def ratios(self, rounds: list[dict[str, Any]]) -> str:
        """Above 1 Realm is ahead."""
        pairs = [(entry["realm"][self.key], entry["wllama"][self.key]) for entry in rounds]
        ratios = [theirs / own if self.less_is_better else own / theirs for own, theirs in pairs]
        return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


FIGURES = (
    Figure("load", "load", "s", 2, True),
    Figure("first token of 16", "first", "s", 3, True),
    Figure("prompt", "prefill", "tokens/s", 1, False),
    Figure("generation", "decode", "tokens/s", 1, False),
    Figure("peak memory", "peakMiB", "MiB", 0, True),
)


def tables(rounds: list[dict[str, Any]]) -> str:
    """Markdown: one table for each model and number of threads."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for entry in rounds:
        groups.setdefault((entry["model"], entry["threads"]), []).append(entry)
    return "\n\n".join(table(*key, group) for key, group in groups.items())


def table(model: str, threads: int, rounds: list[dict[str, Any]]) -> str:
    last = rounds[-1]
    prompt = f"prompt of {last['realm']['promptTokens']} tokens"
    head = f"{model}, {threads} {'thread' if threads == 1 else 'threads'}, {prompt}, {len(rounds)} rounds"
    lines = [f"{head}; {last['machine']}, {last['date']}:", ""]
    compared = [entry for entry in rounds if "wllama" in entry]
    peer = f" wllama {compared[-1]['wllama']['version']} | ratio |" if compared else ""
    lines += [f"| | Realm |{peer}", "|---|---|" + "---|---|" * bool(compared)]
    for figure in FIGURES:
        line = f"| {figure.label} | {figure.shown([entry['realm'] for entry in rounds])} |"
        if compared:
            line += f" {figure.shown([entry['wllama'] for entry in compared])} | {figure.ratios(compared)} |"
        lines.append(line)
    return "\n".join(lines)


# ---- the command ----


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--threads", nargs="+", type=int, default=[2])
    parser.add_argument("--prefill", type=int, default=256)
    parser.add_argument("--decode", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--wllama", type=Path, help="folder of an installed @wllama/wllama")
    parser.add_argument("--json", type=Path, help="rounds are appended to this file")
    parser.add_argument("--table", type=Path, help="measure nothing, print the rounds of this file")
    options = parser.parse_args()
    if options.table:
        print(tables([json.loads(line) for line in options.table.read_text().splitlines()]))
        return
    rounds = []
    for made in measured(options):
        rounds.append(made)
        print(json.dumps(made), flush=True)
        if options.json:
            with options.json.open("a") as file:
                file.write(f"{json.dumps(made)}\n")
    print(tables(rounds))


def measured(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models:
            folders = {"/": Path(folder), "/realm/": node.WEB_DIST, "/models/": model.resolve().parent}
            if options.wllama:
                folders["/wllama/"] = options.wllama.resolve()
            with Site(folders, isolated=True) as site:
                for threads in options.threads:
                    for _ in range(options.rounds):
                        yield run_round(site, model.name, threads, options)


if __name__ == "__main__":
    main()
