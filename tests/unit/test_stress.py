"""The engine under ThreadSanitizer: threads open, feed, cancel and close realms while the driver steps."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "core"
OUT = ROOT / "build" / "test" / "stress"
ROUNDS = 4000
ISA_FLAGS = {
    "_avx2": ["-mavx2", "-mfma", "-mf16c"],
    "_avx512": [
        "-mavx512f",
        "-mavx512bw",
        "-mavx512vl",
        "-mavx512dq",
        "-mavx512vnni",
        "-mavx2",
        "-mfma",
        "-mf16c",
    ],
    "_amx": [
        "-mamx-tile",
        "-mamx-bf16",
        "-mamx-int8",
        "-mavx512f",
        "-mavx512bw",
        "-mavx512vl",
        "-mavx512dq",
        "-mfma",
        "-mf16c",
    ],
}


def compile_objects(command: list[str]) -> list[str]:
    OUT.mkdir(parents=True, exist_ok=True)
    sources = [
        *CORE.glob("*.c"),
        *CORE.glob("cpu/*.c"),
        CORE / "platform/platform_posix.c",
        Path(__file__).with_name("stress_engine.c"),
    ]
    newest_header = max(h.stat().st_mtime for h in CORE.rglob("*.h"))
    objects = []
    for source in sources:
        target = OUT / f"{source.stem}.o"
        objects.append(str(target))
        if target.exists() and target.stat().st_mtime > max(newest_header, source.stat().st_mtime):
            continue
        flags = next((f for suffix, f in ISA_FLAGS.items() if source.stem.endswith(suffix)), [])
        subprocess.run([*command, *flags, "-c", str(source), "-o", str(target)], check=True)
    return objects


@pytest.mark.skipif(sys.platform != "linux", reason="the sanitizer's runtime is Linux only here")
def test_no_data_races_while_realms_come_and_go() -> None:
    compiler = (
        ["cc"] if shutil.which("cc") else [sys.executable, "-m", "ziglang", "cc", "-fno-sanitize=undefined"]
    )
    command = [*compiler, "-std=c11", "-O1", "-g", "-fsanitize=thread"]
    objects = compile_objects([*command, f"-I{CORE}", f"-I{CORE / 'include'}"])
    program = OUT / "stress_engine"
    subprocess.run([*command, *objects, "-o", str(program), "-lm", "-lpthread"], check=True)
    model = ROOT / "tests" / "vectors" / "model-llama3.gguf"
    done = subprocess.run(
        [str(program), str(model), str(ROUNDS)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
