"""The native library: the C core and the Python shim, one object per file, linked for one target.

Objects live in `build/native/<kind>/`; the host's own library is copied to where the Python package
loads it from. Examples of what calls it: `build`, the wheel's build hook, the C tests and the fuzzers.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from .incremental import Step, run_steps
from .paths import BUILD, NATIVE, BuildError, relative, sources
from .toolchain import (
    INCLUDES,
    Compiler,
    Target,
    file_flags,
    host_target,
    release_compiler,
    sanitizing_compiler,
)

CORE_PATTERNS = ("core/*.c", "core/cpu/*.c")
SHIM_PATTERNS = ("host_python/native/*.c",)


def build_library(target: Target) -> Path:
    """Compiles and links the library of a target; a no-op when nothing changed."""
    compiler = release_compiler(target)
    objects = compile_files(compiler, [*core_sources(compiler), *sources(*SHIM_PATTERNS)])
    output = BUILD / "native" / compiler.kind / target.library
    run_steps([link_step(compiler, objects, output, ("-shared",))])
    return output


def install_library() -> Path:
    """Builds for this machine and puts the library where `import realm` finds it."""
    built = build_library(host_target())
    return install(built, NATIVE / built.name)


def install(built: Path, destination: Path) -> Path:
    """Replaces in one step, because a running process may have the old file mapped."""
    if destination.exists() and destination.read_bytes() == built.read_bytes():
        return destination
    destination.parent.mkdir(parents=True, exist_ok=True)
    temporary = destination.with_name(destination.name + ".new")
    shutil.copyfile(built, temporary)
    temporary.replace(destination)
    return destination


def core_sources(compiler: Compiler) -> list[Path]:
    """The core's files and the one platform file of the target."""
    platform_file = f"core/platform/platform_{compiler.system}.c"
    found = sources(*CORE_PATTERNS, platform_file)
    if not any(relative(path) == platform_file for path in found):
        raise BuildError(f"{platform_file} is missing: this target cannot be built yet")
    return found


def compile_files(compiler: Compiler, files: Sequence[Path], extra: Sequence[str] = ()) -> list[Path]:
    """Compiles what changed; returns the objects of every file that applies to the target's processor."""
    steps = [step for file in files if (step := compile_step(compiler, file, extra))]
    run_steps(steps)
    return [step.output for step in steps]


def compile_step(compiler: Compiler, file: Path, extra: Sequence[str] = ()) -> Step | None:
    flags = file_flags(file.stem, compiler.isa)
    if flags is None:
        return None
    output = BUILD / "native" / compiler.kind / (relative(file) + ".o")
    depfile = output.with_suffix(".d")
    command = (
        *compiler.command, *compiler.flags, *flags, *INCLUDES, *extra,
        "-MMD", "-MF", relative(depfile), "-c", relative(file), "-o", relative(output),
    )  # fmt: skip
    return Step(f"cc {compiler.kind} {relative(file)}", output, command, (file,), compiler.version, depfile)


def link_step(compiler: Compiler, objects: Sequence[Path], output: Path, extra: Sequence[str] = ()) -> Step:
    names = [relative(path) for path in objects]
    command = (*compiler.command, *extra, "-o", relative(output), *names, *compiler.link_flags)
    return Step(f"link {relative(output)}", output, command, tuple(objects), compiler.version)


def build_sanitized() -> Path:
    """The same library under sanitizers, for runs with the sanitizer's run-time preloaded."""
    compiler = sanitizing_compiler()
    objects = compile_files(compiler, [*core_sources(compiler), *sources(*SHIM_PATTERNS)])
    output = BUILD / "native" / compiler.kind / host_target().library
    run_steps([link_step(compiler, objects, output, ("-shared",))])
    return output
