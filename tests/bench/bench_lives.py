"""Ten thousand short lives of realms, models, requests and workers in Node, under sanitizers.

    python3 -m realm_build bench lives [--rounds 10000]

Addon and core are built with AddressSanitizer and UndefinedBehaviorSanitizer, whose run-time is loaded before
Node. What Node itself leaves behind at its end is not counted; leaks of ours show as blocks that nobody
holds, and as growth of the resident memory over the last four fifths of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from realm_build import node, node_addon, toolchain  # noqa: E402

PROGRAM = ROOT / "tests" / "node" / "lives.mjs"


def runtime_library(compiler: toolchain.Compiler) -> str:
    name = "libclang_rt.asan-x86_64.so" if compiler.command[0] == "clang" else "libasan.so"
    command = [compiler.command[0], f"-print-file-name={name}"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if "address" not in compiler.sanitizers or not os.path.isabs(found):
        raise SystemExit("AddressSanitizer is needed: install clang, or gcc with libasan")
    return found


def environment(addon: Path, library: str, suppressions: Path, log: Path) -> dict[str, str]:
    options = f"detect_leaks=1:abort_on_error=0:log_path={log}:detect_stack_use_after_return=0"
    leaks = f"suppressions={suppressions}:print_suppressions=0"
    return {
        **os.environ, "REALM_ADDON": str(addon), "LD_PRELOAD": library, "ASAN_OPTIONS": options,
        "LSAN_OPTIONS": leaks, "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={log}",
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Short lives in Node under sanitizers.")
    parser.add_argument("--rounds", type=int, default=10_000)
    options = parser.parse_args()
    node.build()
    compiler = toolchain.sanitizing_compiler()
    addon = node_addon.build_debug_addon(compiler)
    with tempfile.TemporaryDirectory() as folder:
        suppressions, log = Path(folder) / "leaks", Path(folder) / "report"
        suppressions.write_text("leak:node::\nleak:v8::\nleak:uv_\nleak:^node$\nleak:/bin/node\n")
        command = [str(node.node()), "--expose-gc", str(PROGRAM), str(options.rounds)]
        began = time.monotonic()
        done = subprocess.run(
            command, env=environment(addon, runtime_library(compiler), suppressions, log),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        reports = [path.read_text() for path in sorted(Path(folder).glob("report*"))]
    if done.returncode != 0 or reports:
        raise SystemExit("\n".join([done.stdout, done.stderr, *reports]))
    found = json.loads(done.stdout)
    before, after = found["before"], found["after"]
    seconds = time.monotonic() - began
    per_round = (after - before) / (found["rounds"] * 4 / 5)
    print(
        f"{found['rounds']} rounds in {seconds:.0f} s under {compiler.sanitizers}, no finding; "
        f"resident {before / 1e6:.0f} -> {after / 1e6:.0f} MB: {per_round:.0f} bytes a round"
    )


if __name__ == "__main__":
    main()
