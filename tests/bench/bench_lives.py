"""Ten thousand short lives of realms, models, requests and workers in Node, under sanitizers.

    python3 -m realm_build bench lives [--rounds 10000]

Addon and core are built with AddressSanitizer and UndefinedBehaviorSanitizer, whose run-time is loaded before
Node. Leaks show as growth of the resident memory over the last four fifths of the rounds: LeakSanitizer
finds nothing in Node, not even a leak made on purpose.
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


def environment(addon: Path, library: str, log: Path) -> dict[str, str]:
    # A small quarantine, so that resident memory says something.
    options = f"detect_leaks=0:abort_on_error=0:quarantine_size_mb=16:log_path={log}"
    return {
        **os.environ, "REALM_ADDON": str(addon), "LD_PRELOAD": library, "ASAN_OPTIONS": options,
        "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={log}",
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Short lives in Node under sanitizers.")
    parser.add_argument("--rounds", type=int, default=10_000)
    options = parser.parse_args()
    node.build()
    compiler = toolchain.sanitizing_compiler()
    addon = node_addon.build_debug_addon(compiler)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "report"
        command = [str(node.node()), "--expose-gc", str(PROGRAM), str(options.rounds)]
        began = time.monotonic()
        done = subprocess.run(
            command, env=environment(addon, runtime_library(compiler), log),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        reports = [path.read_text() for path in sorted(Path(folder).glob("report*"))]
    if done.returncode != 0 or reports:
        raise SystemExit("\n\n".join([done.stdout, done.stderr, *reports]))
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
