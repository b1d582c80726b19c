"""What `realm_build bench` runs: pieces of some seconds, each a few processes of its own that print JSON.

A piece is named `subject/model/path`, such as `core/1.1b-q4_k_m/avx2`; `path` is the kernels both sides
may use: everything the processor has, or all but AMX, or AVX2. node-llama-cpp loads one library for a kind of
processor, so a path is forced by keeping the better ones from it.
"""

from __future__ import annotations

import compileall
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realm_build import bench, node
from tests.bench import bench_peers as peers
from tests.bench import make_models

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FOLDER = ROOT / "build" / "bench"
WLLAMA = "@wllama/wllama@3.8.1"

# REALM_CPU_... masks, and the llama.cpp libraries that must be out of sight.
PATHS = {"best": 0, "avx512": 1 | 2 | 4, "avx2": 1 | 2}
HIDDEN: dict[str, tuple[str, ...]] = {
    "best": (),
    "avx512": ("sapphirerapids",),
    "avx2": ("sapphirerapids", "cooperlake", "zen4", "icelake", "cascadelake", "cannonlake", "skylakex",
             "alderlake"),
}  # fmt: skip

Found = dict[str, Any]


@dataclass(frozen=True)
class Counts:
    """Of tokens; a small set ends in seconds."""

    first: int = 32
    prefill: int = 512
    decode: int = 64
    parallel: int = 32
    browser_prefill: int = 128
    browser_decode: int = 16


QUICK = Counts(prefill=64, decode=8, parallel=4, browser_prefill=32, browser_decode=8)


@dataclass(frozen=True)
class Setup:
    models: Sequence[str]
    peers: bool
    threads: int
    counts: Counts
    llama_bench: Path | None = None

    def file(self, model: str) -> Path:
        path = Path(model)
        return path.resolve() if path.suffix == ".gguf" else make_models.make(model)


def names(setup: Setup) -> Iterator[str]:
    """Every piece of a round. Sides that are compared stand beside each other."""
    yield "limits"
    for model in setup.models:
        for path in PATHS:
            yield f"ops/{model}/{path}"
            yield f"core/{model}/{path}"
            if setup.peers:
                yield f"node-llama-cpp/{model}/{path}"
        yield f"python/{model}"
        yield f"node/{model}"
        if setup.llama_bench:
            yield f"llama-bench/{model}"
        yield f"browser/{model}"
        yield f"start/{model}"
        yield f"busy/{model}"


def play(name: str, setup: Setup) -> Found:
    if name == "limits":
        return run([*program("limits"), str(setup.threads)])
    subject, rest = name.split("/", 1)
    model, _, path = rest.rpartition("/") if rest.rsplit("/", 1)[-1] in PATHS else (rest, "", "best")
    return PIECES[subject](setup, setup.file(model), path)


# ---- Realm ----


def ops(setup: Setup, model: Path, path: str) -> Found:
    return run([*program("ops"), str(model), str(setup.threads), str(PATHS[path]), "json"])


def core(setup: Setup, model: Path, path: str) -> Found:
    return run([*program("core"), str(model), *counts(setup), str(PATHS[path])])


def python(setup: Setup, model: Path, path: str) -> Found:
    c = setup.counts
    options = ["-m", str(model), "-t", str(setup.threads), "-p", str(c.prefill), "-n", str(c.decode)]
    found = run([*realm_command(), "bench", *options, "-r", "1", "--json"])
    reader = [sys.executable, str(HERE / "peer_realm.py"), str(model)]
    return {
        "prefill": found["prompt_tokens_per_second"]["median"],
        "decode": run([*reader, str(setup.threads), str(c.first), str(c.decode)])["decode"],
        "resident_peak": found["peak_resident_bytes"],
        "token_bytes": found["weight_bytes_per_token"],
        "load": found["load_seconds"],
    }


def node_sdk(setup: Setup, model: Path, path: str) -> Found:
    return run([str(node.node()), str(HERE / "peer_realm.mjs"), str(model), *counts(setup)])


def counts(setup: Setup) -> list[str]:
    """As bench_core.c and peer_realm.mjs take them; each measured once, because rounds repeat them."""
    c = setup.counts
    return [str(count) for count in (setup.threads, c.first, c.prefill, c.decode, c.parallel, 1)]


def browser(setup: Setup, model: Path, path: str) -> Found:
    """Realm in a page and, where it is installed, wllama in another."""
    c = setup.counts
    options = ["--threads", str(setup.threads), "--prefill", str(c.browser_prefill)]
    options += ["--decode", str(c.browser_decode), "--rounds", "1"]
    if setup.peers:
        options += ["--wllama", str(install_wllama())]
    command = [sys.executable, str(HERE / "bench_browser.py"), *options, str(model)]
    return dict(json.loads(output(command).split("\n", 1)[0]))


def start(setup: Setup, model: Path, path: str) -> Found:
    """From the start of a process to its end right after the model is ready; and of the bare interpreters."""
    compileall.compile_dir(ROOT / "host_python" / "realm", quiet=1)  # as an installation does
    sdk = json.dumps((ROOT / "node" / "dist" / "index.mjs").as_uri())
    name = json.dumps(str(model))
    load = f"const realm = new Realm({{ threads: {setup.threads} }}); await realm.loadModel({name});"
    script = f"import {{ Realm }} from {sdk}; {load} process.exit(0);"
    code = f"import os, realm; realm.Realm({name}, threads={setup.threads}); os._exit(0)"
    commands = {
        "python": [sys.executable, "-c", code],
        "python_bare": [sys.executable, "-c", "pass"],
        "node": [str(node.node()), "--input-type=module", "-e", script],
        "node_bare": [str(node.node()), "-e", "0"],
    }
    return {name: min(timed(command) for _ in range(3)) for name, command in commands.items()}


def busy(setup: Setup, model: Path, path: str) -> Found:
    command = [sys.executable, str(HERE / "bench_busy.py"), "--model", str(model), "--rounds", "1"]
    return run([*command, "--threads", str(setup.threads), "--tokens", str(setup.counts.decode)])


# ---- peers ----


def llama_cpp(setup: Setup, model: Path, path: str) -> Found:
    """The bare figures of node-llama-cpp, which is llama.cpp below JavaScript."""
    c = setup.counts
    folder = install_llama(path)
    arguments = [str(count) for count in (setup.threads, c.prefill, c.decode, c.first, c.parallel)]
    found = run([str(node.node()), str(folder / "peer_llama.mjs"), str(model), *arguments], folder)
    return {**found, "prefill": found["prefill"][str(c.prefill)], "load": found["load_s"]}


def llama_bench(setup: Setup, model: Path, path: str) -> Found:
    c = setup.counts
    options = ["-m", str(model), "-t", str(setup.threads), "-p", str(c.prefill), "-n", str(c.decode)]
    rows = json.loads(output([str(setup.llama_bench), *options, "-r", "1", "-o", "json"]))
    return {"prefill" if row["n_prompt"] else "decode": row["avg_ts"] for row in rows}


def install_llama(path: str) -> Path:
    """node-llama-cpp in a folder of its own, without the libraries that the path does not have."""
    peers.install_peer()
    if path == "best":
        return peers.NODE
    folder = FOLDER / f"node-{path}"
    if not folder.exists():
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(peers.NODE, part, symlinks=True)
        for library in part.glob("node_modules/@node-llama-cpp/*/bins/*/libggml-cpu-*"):
            if any(kind in library.name for kind in HIDDEN[path]):
                library.unlink()
        part.replace(folder)
    shutil.copy(HERE / "peer_llama.mjs", folder)
    return folder


def install_wllama() -> Path:
    """Its ES modules and WebAssembly; the package runs nothing when installed."""
    folder = FOLDER / "wllama"
    package = folder / "node_modules" / "@wllama" / "wllama"
    if not (package / "esm").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"name": "peers", "private": true}\n')
        quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-save"]
        subprocess.run(["npm", "install", *quiet, WLLAMA], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return package


def prepare(setup: Setup) -> None:
    """All that would disturb or prolong a measurement: models, programs, peers, the file cache."""
    for name in ("limits", "ops", "core"):
        program(name)
    for model in setup.models:
        with setup.file(model).open("rb") as file:
            while file.read(1 << 24):
                pass
    if setup.peers:
        install_wllama()
        for path in PATHS:
            install_llama(path)


# ---- processes ----


PIECES: dict[str, Callable[[Setup, Path, str], Found]] = {
    "ops": ops, "core": core, "python": python, "node": node_sdk, "browser": browser, "start": start,
    "busy": busy, "node-llama-cpp": llama_cpp, "llama-bench": llama_bench,
}  # fmt: skip


def program(name: str) -> list[str]:
    return bench.start_command(HERE / f"bench_{name}.c")


def realm_command() -> list[str]:
    return [sys.executable, "-m", "realm"]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "host_python"), str(ROOT)))}


def output(command: list[str], folder: Path = ROOT) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=peers.ROUND_SECONDS
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr or done.stdout}")
    return done.stdout


def run(command: list[str], folder: Path = ROOT) -> Found:
    """The JSON on the last line of the output."""
    return dict(json.loads(output(command, folder).strip().splitlines()[-1]))


def timed(command: list[str]) -> float:
    began = time.perf_counter()
    output(command)
    return time.perf_counter() - began
