"""Builds the C core as a shared library with every symbol visible, and small C programs against it, for tests of internals.

The library is rebuilt when a source is newer. `load()` gives a cffi handle with the declarations tests need;
`build_program()` compiles a C driver together with the core, with sanitizers when the compiler has them.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cffi

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "core"
OUT = ROOT / "build" / "test"
WARNINGS = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror"]
INCLUDES = [f"-I{CORE}", f"-I{CORE / 'include'}"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
# What the GGUF reader and the tokenizers stand on; the whole core is not needed and others' files may be mid-change.
TEXT_SOURCES = [
    "base.c", "blocks.c", "gguf.c", "gguf_describe.c", "pretokenize.c", "tokenizer.c", "tokenizer_bpe.c",
    "tokenizer_merge.c", "tokenizer_spm.c",
    "unicode.c", "platform/platform_posix.c",
]  # fmt: skip


def compiler() -> list[str]:
    """The system's C compiler where there is one (it has the sanitizers), else zig's."""
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        if name and shutil.which(name):
            return [name]
    return [sys.executable, "-m", "ziglang", "cc"]


def has_sanitizers() -> bool:
    return compiler()[0] != sys.executable


def sources() -> list[Path]:
    return [CORE / name for name in TEXT_SOURCES if (CORE / name).exists()]


def newest_input(extra: list[Path]) -> float:
    headers = [*CORE.glob("*.h"), *CORE.glob("*/*.h")]
    return max(path.stat().st_mtime for path in [*sources(), *headers, *extra, Path(__file__)])


def compile_if_older(target: Path, arguments: list[str], extra: list[Path]) -> Path:
    """Compiles into a temporary name first, so that parallel test runs never load half a file."""
    if target.exists() and target.stat().st_mtime >= newest_input(extra):
        return target
    OUT.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f"{target.name}.{os.getpid()}")
    command = [*compiler(), *WARNINGS, *INCLUDES, *arguments, "-lm", "-lpthread", "-o", str(scratch)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    os.replace(scratch, target)
    return target


def build_library() -> Path:
    arguments = ["-O2", "-g", "-shared", "-fPIC", *map(str, sources())]
    return compile_if_older(OUT / "libcore_test.so", arguments, [])


def build_program(name: str, driver: Path, options: list[str] | None = None, sanitize: bool = True) -> Path:
    """A C program made of `driver` and the core."""
    flags = [*(SANITIZE if sanitize and has_sanitizers() else []), *(options or [])]
    arguments = ["-O1", "-g", *flags, str(driver), *map(str, sources())]
    return compile_if_older(OUT / name, arguments, [driver])


def declarations(header: Path) -> str:
    """The plain declarations of a core header: no preprocessor lines, no inline functions, no comments."""
    text = re.sub(r"/\*.*?\*/", "", header.read_text(), flags=re.S)
    text = re.sub(r"static inline [^{]*\{(?:[^{}]|\{[^{}]*\})*\}", "", text)
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return re.sub(r"BASE_PRINTF\([^)]*\)|REALM_API", "", "\n".join(lines))


@functools.cache
def load() -> tuple[Any, Any]:
    """(ffi, lib) with the declarations of gguf.h and tokenizer.h."""
    ffi = cffi.FFI()
    ffi.cdef("typedef int realm_status;")
    ffi.cdef("typedef struct realm_error { int32_t code; char message[256]; } realm_error;")
    ffi.cdef("const char *realm_status_name(realm_status status);")
    ffi.cdef(declarations(CORE / "gguf.h"))
    ffi.cdef(declarations(CORE / "tokenizer.h"))
    return ffi, ffi.dlopen(str(build_library()))
