"""The WebAssembly guests: the standard orchestrator and the example guests, all without a libc.

The standard guest goes where the Python package loads it from; examples go to `build/guest/`.
"""

from __future__ import annotations

from pathlib import Path

from .incremental import Step, run_steps
from .native import install
from .paths import BUILD, NATIVE, ROOT, relative, sources
from .toolchain import WARNINGS, zig, zig_version

FLAGS = (
    "-std=c11", "-O2", "-nostdlib", "-ffreestanding", "-fno-builtin-memset", "-fno-sanitize=undefined",
    "-mbulk-memory", "-msign-ext", "-mnontrapping-fptoint", *WARNINGS, "-Iguest_src",
)  # fmt: skip
LINK_FLAGS = (
    "-Wl,--no-entry", "-Wl,--initial-memory=131072", "-Wl,--max-memory=16777216", "-Wl,-z,stack-size=32768",
    "-Wl,--strip-all", "-Wl,--gc-sections",
)  # fmt: skip
GUESTS = BUILD / "guest"


def build_guests() -> list[Path]:
    """Builds the standard guest and every example; returns their files, the standard one first."""
    steps = [guest_step("realm", standard_sources())]
    steps += [
        guest_step(example.stem, [example, *support_sources()])
        for example in sources("guest_src/examples/*.c")
    ]
    run_steps(steps)
    return [step.output for step in steps]


def install_guest() -> Path:
    return install(build_guests()[0], NATIVE / "realm.wasm")


def standard_sources() -> list[Path]:
    return sources("guest_src/*.c")


def support_sources() -> list[Path]:
    """What every guest shares (memory, strings, marshalling); the rest is the standard guest's."""
    return sources("guest_src/support*.c")


def guest_step(name: str, files: list[Path]) -> Step:
    """One command from sources to module; every header of guest_src counts as read."""
    output = GUESTS / f"{name}.wasm"
    names = [relative(file) for file in files]
    command = (
        zig(),
        "cc",
        "-target",
        "wasm32-freestanding",
        *FLAGS,
        *LINK_FLAGS,
        "-o",
        relative(output),
        *names,
    )
    headers = sorted((ROOT / "guest_src").glob("**/*.h"))
    return Step(f"guest {name}.wasm", output, command, (*files, *headers), zig_version())
