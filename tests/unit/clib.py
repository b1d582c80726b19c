"""The GGUF reader and the tokenizers for tests: release objects with every symbol visible, through cffi.

Only the files they stand on are linked, so these tests say something even while other parts do not build.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cffi

from realm_build import ctest, native, toolchain
from realm_build.incremental import run_steps
from realm_build.paths import BUILD, ROOT, sources

SOURCES = ("base", "blocks", "gguf", "gguf_describe", "unicode", "pretokenize", "tokenizer*")
NONE = 0xFFFFFFFF  # "no such token"
ADD_SPECIAL, PARSE_SPECIAL = 1, 2  # flags of encode
SPECIAL, TEXT_START = 1, 2  # flags of decode


def core_files() -> list[Path]:
    return sources(*(f"core/{name}.c" for name in SOURCES))


@functools.cache
def load() -> tuple[Any, Any]:
    """(ffi, lib) with the declarations of gguf.h and tokenizer.h."""
    ffi = cffi.FFI()
    ffi.cdef("typedef int realm_status; const char *realm_status_name(realm_status status);")
    ffi.cdef("typedef struct realm_error { int32_t code; char message[256]; } realm_error;")
    ffi.cdef("int unicode_class_of(uint32_t code);")
    ffi.cdef("size_t unicode_decode(const char *p, size_t n, uint32_t *code);")
    for header in ("gguf.h", "tokenizer.h", "pretokenize.h"):
        ffi.cdef(declarations(ROOT / "core" / header))
    return ffi, ffi.dlopen(str(ctest.visible_library("text", core_files())))


def declarations(header: Path) -> str:
    """A core header without comments and preprocessor lines."""
    text = re.sub(r"/\*.*?\*/", "", header.read_text(encoding="utf-8"), flags=re.S)
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))


def run_program(
    driver: Path, *more: Path, flags: Sequence[str] = (), arguments: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Compiles a C program with the same core files under sanitizers, all of it with `flags`, and runs it."""
    sanitizing = toolchain.sanitizing_compiler()
    compiler = dataclasses.replace(sanitizing, kind=f"{sanitizing.kind}-{driver.stem}")
    objects = native.compile_files(compiler, [driver, *more, *core_files()], flags)
    program = BUILD / "ctest" / compiler.kind / driver.stem
    run_steps([native.link_step(compiler, objects, program)])
    return subprocess.run(
        [str(program), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=ctest.environment(),
        check=False,
    )


def replay(target: str, folder: Path, inputs: Iterable[bytes]) -> None:
    """Runs inputs through a fuzzer's harness under sanitizers, with all that it checks."""
    files = []
    for i, data in enumerate(inputs):
        files.append(folder / f"input-{i}")
        files[-1].write_bytes(data)
    fuzz = ROOT / "tests" / "fuzz"
    done = run_program(fuzz / f"fuzz_{target}.c", fuzz / "standalone_main.c", arguments=list(map(str, files)))
    assert done.returncode == 0, done.stdout + done.stderr


class CoreError(Exception):
    def __init__(self, status: int, message: str) -> None:
        ffi, lib = load()
        self.code: str = ffi.string(lib.realm_status_name(status)).decode()
        super().__init__(f"{self.code}: {message}")
        self.message = message


def check(status: int, err: Any) -> None:
    if status != 0:
        message = load()[0].string(err.message).decode("ascii")  # names from files must come out printable
        assert err.code == status and message and message.isprintable()
        raise CoreError(status, message)


@contextmanager
def opened(data: bytes) -> Iterator[Any]:
    """A gguf of the bytes; raises CoreError."""
    ffi, lib = load()
    out, err, held = ffi.new("gguf **"), ffi.new("realm_error *"), ffi.from_buffer("uint8_t[]", data)
    status = lib.gguf_open(held, len(data), out, err)
    assert (status == 0) == (out[0] != ffi.NULL)
    check(status, err)
    try:
        yield out[0]
    finally:
        lib.gguf_close(out[0])


def describe(file: Any) -> str:
    ffi, lib = load()
    size = lib.gguf_describe(file, ffi.NULL, 0)
    text = ffi.new("char[]", size)
    assert lib.gguf_describe(file, text, size) == size
    return bytes(ffi.buffer(text, size)).decode("utf-8")


class Tokenizer:
    """A tokenizer made from a GGUF's bytes."""

    def __init__(self, data: bytes) -> None:
        ffi, lib = load()
        self.lib = lib
        out, err = ffi.new("tokenizer **"), ffi.new("realm_error *")
        with opened(data) as file:
            status = lib.tokenizer_create(file, out, err)
        assert (status == 0) == (out[0] != ffi.NULL)
        check(status, err)
        self.handle = ffi.gc(out[0], lib.tokenizer_destroy)

    def encode(self, text: str | bytes, flags: int = 0) -> list[int]:
        ffi = load()[0]
        data = text.encode() if isinstance(text, str) else text
        ids, count, err = ffi.new("uint32_t[]", len(data) + 3), ffi.new("size_t *"), ffi.new("realm_error *")
        check(
            self.lib.tokenizer_encode(self.handle, data, len(data), flags, ids, len(data) + 3, count, err),
            err,
        )
        return list(ids[0 : count[0]])

    def decode(self, ids: Sequence[int], flags: int = 0) -> bytes:
        ffi = load()[0]
        size, err = ffi.new("size_t *"), ffi.new("realm_error *")
        check(self.lib.tokenizer_decode(self.handle, ids, len(ids), flags, ffi.NULL, 0, size, err), err)
        out = ffi.new("char[]", size[0] + 1)
        check(self.lib.tokenizer_decode(self.handle, ids, len(ids), flags, out, size[0], size, err), err)
        return bytes(ffi.buffer(out, size[0]))

    def ends(self) -> list[int]:
        return [
            i
            for i in range(self.lib.tokenizer_vocab_size(self.handle))
            if self.lib.tokenizer_is_end(self.handle, i)
        ]
