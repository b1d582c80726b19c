"""Which part may depend on which: reads every #include and import and refuses what points the wrong way.

core -> C11 (its platform files also the system); guest -> its own headers; a host -> core/include; hosts
never import each other, and what Node and the browser share, js/, knows neither; nothing that runs at the
user's imports the build tool, and the build tool needs only the standard library.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

C11 = {
    "assert", "complex", "ctype", "errno", "fenv", "float", "inttypes", "iso646", "limits", "locale", "math",
    "setjmp", "signal", "stdalign", "stdarg", "stdatomic", "stdbool", "stddef", "stdint", "stdio", "stdlib",
    "stdnoreturn", "string", "tgmath", "threads", "time", "uchar", "wchar", "wctype",
}  # fmt: skip
FREESTANDING = {
    "float",
    "iso646",
    "limits",
    "stdalign",
    "stdarg",
    "stdbool",
    "stddef",
    "stdint",
    "stdnoreturn",
}
INTRINSICS = {"immintrin", "cpuid", "arm_neon", "wasm_simd128"}  # the compiler's own, in core/cpu only
CORE = C11 - {"time", "signal", "locale", "threads", "setjmp"}  # no clock, no global state
# stdio.h is there for snprintf; a library neither prints, nor opens files, nor ends the process.
NOT_IN_THE_CORE = (
    r"\b(?:v?f?printf|f?puts|putchar|fopen|fread|fwrite|fgets|scanf|abort|exit|_Exit|getenv|system)\s*\("
)


def includes(text: str) -> list[tuple[str, str]]:
    """(bracket, name) of every include: ("<", "math.h") or ('"', "base.h")."""
    return re.findall(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', text, re.MULTILINE)


def without_comments(text: str) -> str:
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)


def c_complaints(files: list[Path], system: set[str], own: list[Path], any_system: bool = False) -> list[str]:
    """Includes that are neither allowed system headers nor found in one of the `own` folders."""
    complaints = []
    for file in files:
        for bracket, name in includes(file.read_text()):
            if bracket == "<":
                fine = any_system or name.removesuffix(".h") in system
            else:
                candidates = [file.parent / name, *(folder / name for folder in own)]
                found = next((path.resolve() for path in candidates if path.exists()), None)
                fine = found is not None and any(found.is_relative_to(folder) for folder in own)
            if not fine:
                complaints.append(f"{file.relative_to(ROOT)} includes {name}")
    return complaints


def c_files(*patterns: str) -> list[Path]:
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern))


def imported_modules(source: str) -> set[str]:
    """Top-level names of all absolute imports, also those inside functions."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            modules.add(node.module.split(".")[0])
    return modules


def python_complaints(
    folder: str, allowed: set[str] | None = None, refused: frozenset[str] = frozenset()
) -> list[str]:
    complaints = []
    for file in sorted((ROOT / folder).rglob("*.py")):
        names = imported_modules(file.read_text())
        wrong = names & refused if allowed is None else names - allowed
        complaints += [f"{file.relative_to(ROOT)} imports {name}" for name in sorted(wrong)]
    return complaints


def test_core_needs_only_c11() -> None:
    own = [ROOT / "core"]
    plain = c_files("core/*.[ch]", "core/include/*.h")
    assert plain
    assert not c_complaints(plain, CORE, [*own, ROOT / "core/include"])
    assert not c_complaints(c_files("core/cpu/*.[ch]"), CORE | INTRINSICS, [*own, ROOT / "core/include"])


def test_intrinsics_stay_in_files_of_one_instruction_set() -> None:
    """All but `cpuid`, which the dispatcher asks with; headers belong to the files that include them."""
    wrong = []
    for file in c_files("core/cpu/*.c"):
        used = {name.removesuffix(".h") for _, name in includes(file.read_text())}
        if used & (INTRINSICS - {"cpuid"}) and not re.search(r"_(avx2|avx512|amx|neon|wasm)$", file.stem):
            wrong.append(file.name)
    assert not wrong


def test_core_neither_prints_nor_ends_the_process() -> None:
    files = c_files("core/*.[ch]", "core/cpu/*.[ch]")
    assert not [
        f"{file.name}: {match[0]}"
        for file in files
        for match in re.finditer(NOT_IN_THE_CORE, without_comments(file.read_text()))
    ]


def test_public_headers_stand_alone() -> None:
    folder = ROOT / "core/include"
    assert not c_complaints(c_files("core/include/*.h"), CORE, [folder])


def test_platform_files_use_the_system_and_the_core() -> None:
    own = [ROOT / "core", ROOT / "core/include"]
    assert not c_complaints(c_files("core/platform/*.[ch]"), set(), own, any_system=True)


def test_guest_knows_only_its_own_headers() -> None:
    folder = ROOT / "guest_src"
    own = [path for path in [folder, *folder.rglob("*")] if path.is_dir()]
    assert not c_complaints(c_files("guest_src/**/*.[ch]"), FREESTANDING, own)


def test_python_shim_knows_the_core_only_by_its_public_headers() -> None:
    own = [ROOT / "core/include", ROOT / "host_python"]
    assert not c_complaints(c_files("host_python/native/**/*.[ch]"), C11, own, any_system=True)


# ---- TypeScript ----

JINJA = "@huggingface/jinja"


def typescript_imports(text: str) -> list[str]:
    """What a module imports or re-exports, also by import() and require()."""
    text = without_comments(text)
    return re.findall(r"""(?:\bfrom|\bimport|\bimport\(|\brequire\()\s*["']([^"']+)["']""", text)


def typescript_complaints(folder: str, own: list[str], packages: str) -> list[str]:
    """Imports that neither lead into one of the `own` folders nor match the pattern of allowed packages."""
    complaints = []
    for file in sorted((ROOT / folder).rglob("*.ts")):
        for name in typescript_imports(file.read_text(encoding="utf-8")):
            inside = (file.parent / name).resolve()
            fine = any(inside.is_relative_to(ROOT / place) for place in own) if name[0] == "." else False
            if not fine and (name[0] == "." or not re.fullmatch(packages, name)):
                complaints.append(f"{file.relative_to(ROOT)} imports {name}")
    return complaints


def test_what_hosts_share_knows_no_host() -> None:
    assert not typescript_complaints("js/src", ["js/src", "kernels/wgsl"], re.escape(JINJA))


def test_node_imports_only_its_own_and_the_shared() -> None:
    """Of packages only Dawn, in one place, which asks for it when it is wanted."""
    complaints = typescript_complaints("node/src", ["node/src", "js/src"], r"node:[\w/]+")
    assert complaints == ["node/src/dawn.ts imports webgpu"]


def test_web_imports_only_its_own_and_the_shared() -> None:
    assert not typescript_complaints("web/src", ["web/src", "js/src"], "")


def test_node_addon_knows_the_core_by_its_public_headers() -> None:
    """And by platform.h: the addon is linked with the core, and has no other portable threads."""
    own = [ROOT / "core/include", ROOT / "node/src", ROOT / "core/platform", ROOT / "core"]
    files = c_files("node/src/*.[ch]")
    assert files
    assert not c_complaints(files, {*C11, "node_api"}, own)
    named = {name for file in files for _, name in includes(file.read_text())}
    assert not {name for name in named if (ROOT / "core" / name).exists()} - {"platform/platform.h"}


@pytest.mark.parametrize("folder", ["host_python/realm", "examples"])
def test_nothing_imports_the_build_tool_or_the_tests(folder: str) -> None:
    assert not python_complaints(folder, refused=frozenset({"realm_build", "tests", "hatch_build"}))


def test_build_tool_needs_only_the_standard_library() -> None:
    """All but the modules that have the C headers parsed; they run inside the environment."""
    complaints = python_complaints("realm_build", allowed={*sys.stdlib_module_names, "realm_build"})
    assert complaints == [
        "realm_build/cffi_abi.py imports cffi",
        "realm_build/core_typescript.py imports pycparser",
        "realm_build/records.py imports cffi",
    ]


def test_the_readers_see_what_they_must(tmp_path: Path) -> None:
    assert includes('#include <math.h>\n  # include "base.h"\n// include "no.h"\n') == [
        ("<", "math.h"),
        ('"', "base.h"),
    ]
    assert re.findall(NOT_IN_THE_CORE, 'x = printf("%d"); my_exit(1); snprintf(a, n, "b"); exit(1);') == [
        "printf(",
        "exit(",
    ]
    assert typescript_imports(
        'import a from "./a.js";\nexport * from "b"; // from "c"\nawait import("./d")'
    ) == [
        "./a.js",
        "b",
        "./d",
    ]
    assert without_comments("a // abort()\nb /* exit( \n */ c") == "a \nb  c"
    assert imported_modules("from realm_build import paths\ndef f():\n    import a.b\nfrom . import c\n") == {
        "realm_build",
        "a",
    }
