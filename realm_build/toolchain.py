"""Which compiler makes what: the table of targets, the flags of every kind of file, and the sanitizer builds.

The released library is always made by zig (pinned, from PyPI), which cross-compiles every target from one
machine. Sanitizers need a compiler with their run-time libraries: clang, then gcc, else zig's own UBSan.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .paths import BUILD, BuildError

WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror")
INCLUDES = ("-Icore", "-Icore/include")

# Instruction sets by the end of a file's name. The dispatcher asks the processor before it calls such a file.
ISA_FLAGS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86": {
        "_avx2": ("-mavx2", "-mfma", "-mf16c"),
        "_avxvnni": ("-mavxvnni", "-mavx2", "-mfma", "-mf16c"),
        "_avx512": (
            "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni",
            "-mavx2", "-mfma", "-mf16c",
        ),
        "_amx": (
            "-mamx-tile", "-mamx-bf16", "-mamx-int8", "-mavx512bf16",
            "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni",
            "-mavx2", "-mfma", "-mf16c",
        ),
    },
    "arm64": {"_neon": ("-mcpu=generic+dotprod",), "_i8mm": ("-mcpu=generic+dotprod+i8mm",)},
    # An engine refuses a whole module for one instruction it does not know: hence two builds.
    "wasm": {"_simd128": ()},
    "wasm-relaxed": {"_simd128": (), "_relaxed": ()},
}  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A platform a library, wheel or npm package is made for."""

    name: str
    zig: str  # zig's target triple, with the oldest C library it must run on
    library: str
    wheel_tag: str
    npm: str  # the same platform as Node and npm name it
    isa: str  # key of ISA_FLAGS
    system: str  # core/platform/platform_<system>.c


TARGETS = {
    name: Target(name, zig, library, wheel, npm, isa, system)
    for name, zig, library, wheel, npm, isa, system in (
        ("linux-x64", "x86_64-linux-gnu.2.28", "librealm.so", "manylinux_2_28_x86_64",
         "linux-x64-gnu", "x86", "posix"),
        ("linux-arm64", "aarch64-linux-gnu.2.28", "librealm.so", "manylinux_2_28_aarch64",
         "linux-arm64-gnu", "arm64", "posix"),
        ("linux-x64-musl", "x86_64-linux-musl", "librealm.so", "musllinux_1_2_x86_64",
         "linux-x64-musl", "x86", "posix"),
        ("linux-arm64-musl", "aarch64-linux-musl", "librealm.so", "musllinux_1_2_aarch64",
         "linux-arm64-musl", "arm64", "posix"),
        ("macos-x64", "x86_64-macos.11.0", "librealm.dylib", "macosx_11_0_x86_64",
         "darwin-x64", "x86", "posix"),
        ("macos-arm64", "aarch64-macos.11.0", "librealm.dylib", "macosx_11_0_arm64",
         "darwin-arm64", "arm64", "posix"),
        ("windows-x64", "x86_64-windows-gnu", "realm.dll", "win_amd64", "win32-x64", "x86", "windows"),
        ("windows-arm64", "aarch64-windows-gnu", "realm.dll", "win_arm64", "win32-arm64", "arm64", "windows"),
    )
}  # fmt: skip


def host_target() -> Target:
    system = {"linux": "linux", "darwin": "macos", "win32": "windows"}.get(sys.platform, sys.platform)
    machine = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}.get(
        platform.machine().lower()
    )
    musl = "-musl" if system == "linux" and platform.libc_ver()[0] != "glibc" else ""
    return find_target(f"{system}-{machine}{musl}")


def find_target(name: str) -> Target:
    if name not in TARGETS:
        raise BuildError(f"no target {name!r}; there are: {', '.join(TARGETS)}")
    return TARGETS[name]


@dataclass(frozen=True)
class Compiler:
    """A C compiler ready for one kind of build; `kind` names its folder of objects."""

    kind: str
    command: tuple[str, ...]
    flags: tuple[str, ...]
    link_flags: tuple[str, ...]
    isa: str
    system: str
    version: str = ""  # of the compiler, where it can change under the same path
    sanitizers: str = "none"


def file_flags(stem: str, isa: str) -> tuple[str, ...] | None:
    """Extra flags of one C file, or None when the file is for another kind of processor."""
    for suffix, flags in ISA_FLAGS.get(isa, {}).items():
        if stem.endswith(suffix):
            return flags
    if any(stem.endswith(suffix) for suffixes in ISA_FLAGS.values() for suffix in suffixes):
        return None
    # Without contraction a*b+c rounds twice on every machine: the portable kernels stay bit-equal everywhere.
    return ("-ffp-contract=off",)


# ---- release: zig ----


def zig() -> str:
    """The zig executable inside the `ziglang` package (or a zig on PATH, for packagers)."""
    spec = importlib.util.find_spec("ziglang")
    if spec and spec.submodule_search_locations:
        return str(Path(spec.submodule_search_locations[0]) / ("zig.exe" if os.name == "nt" else "zig"))
    on_path = shutil.which("zig")
    if on_path:
        return on_path
    raise BuildError("zig is missing: pip install ziglang")


def compiler_environment() -> dict[str, str]:
    """zig keeps parts of its C library in the user's cache; a user without a home gets one in build/."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if os.access(existing, os.W_OK) or "ZIG_GLOBAL_CACHE_DIR" in os.environ:
        return dict(os.environ)
    return {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(BUILD / "zig-cache")}


def zig_version() -> str:
    try:
        return importlib.metadata.version("ziglang")
    except importlib.metadata.PackageNotFoundError:
        return ""


def release_compiler(target: Target) -> Compiler:
    pic = () if target.system == "windows" else ("-fPIC", "-fvisibility=hidden")
    return Compiler(
        kind=target.name,
        command=(zig(), "cc", "-target", target.zig),
        flags=("-std=c11", "-O3", "-fno-sanitize=undefined", *pic, *WARNINGS),
        link_flags=("-s", *(() if target.system == "windows" else ("-lm", "-lpthread"))),
        isa=target.isa,
        system=target.system,
        version=zig_version(),
    )


# ---- WebAssembly: zig's wasm32-wasi, of whose system interface nothing is used ----

WASM_FEATURES = "generic+simd128+bulk_memory+sign_ext+nontrapping_fptoint"


def wasm_compiler(threads: bool, relaxed: bool) -> Compiler:
    """One of the four builds: for one thread or for shared memory, without or with relaxed SIMD."""
    cpu = WASM_FEATURES + ("+atomics" if threads else "") + ("+relaxed_simd" if relaxed else "")
    return Compiler(
        kind="wasm" + ("-threads" if threads else "") + ("-relaxed" if relaxed else ""),
        command=(zig(), "cc", "-target", "wasm32-wasi", f"-mcpu={cpu}"),
        flags=("-std=c11", "-O3", "-fno-sanitize=undefined", "-fvisibility=hidden", *WARNINGS),
        link_flags=("-lm",),
        isa="wasm-relaxed" if relaxed else "wasm",
        system="wasm",
        version=zig_version(),
    )


# ---- sanitizers: what the machine has ----

SANITIZERS = {
    "address": "address,undefined",
    "fuzzer": "fuzzer-no-link,address,undefined",
    "thread": "thread",
}


def sanitizing_compiler(checks: str = "address") -> Compiler:
    """The best compiler here for `checks`: "address" (with undefined behaviour), "thread", or "fuzzer".

    "fuzzer" is "address" plus the coverage instrumentation of clang's libFuzzer. zig brings no run-time for
    addresses: with it alone only undefined behaviour is seen.
    """
    host = host_target()
    flags = ("-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
    for name, usable in (("clang", has_clang()), ("gcc", shutil.which("gcc") is not None)):
        if usable:
            wanted = SANITIZERS["address" if name == "gcc" and checks == "fuzzer" else checks]
            return _sanitizing(name, (name,), (f"-fsanitize={wanted}", *flags), host, wanted)
    wanted = "thread" if checks == "thread" else "undefined"
    zig_flags = (f"-fsanitize={wanted}", *(("-fno-sanitize=undefined",) if checks == "thread" else flags))
    return _sanitizing("zig", (zig(), "cc", "-target", host.zig), zig_flags, host, wanted)


@functools.cache
def has_clang() -> bool:
    """clang alone is not enough: Debian keeps its sanitizers and libFuzzer in another package."""
    if shutil.which("clang") is None:
        return False
    program = (
        b"int LLVMFuzzerTestOneInput(const unsigned char *d, unsigned long n) { return n > 9 ? d[0] : 0; }"
    )
    with tempfile.TemporaryDirectory() as folder:
        command = ["clang", "-fsanitize=fuzzer,address,undefined", "-x", "c", "-", "-o", f"{folder}/probe"]
        return subprocess.run(command, input=program, capture_output=True, check=False).returncode == 0


def _sanitizing(
    name: str, command: tuple[str, ...], checks: tuple[str, ...], host: Target, label: str
) -> Compiler:
    pic = ("-fPIC", "-fvisibility=hidden")
    return Compiler(
        kind=f"{name}-{label.replace(',', '-')}",
        command=command,
        flags=("-std=c11", "-O1", "-g", "-DREALM_SANITIZED", *checks, *pic, "-Wall", "-Wextra"),
        link_flags=(*checks, "-lm", "-lpthread"),
        isa=host.isa,
        system=host.system,
        sanitizers=label,
    )
