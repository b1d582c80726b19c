"""`realm_build gen`: makes every file generated from guest_src/realm.wit and the C headers, or checks them.

One row of OUTPUTS per file; the emitters are in wit_*.py. Another language is one more emitter and row.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from . import (
    cffi_abi,
    core_typescript,
    records,
    wit,
    wit_c,
    wit_c_host,
    wit_docs,
    wit_python,
    wit_typescript,
)
from .paths import ROOT

SOURCE = "guest_src/realm.wit"
OUTPUTS: dict[str, Callable[[wit.Package], str]] = {
    "core/include/realm_status.h": wit_c.status_header,
    "guest_src/realm_abi.h": wit_c.guest_header,
    "docs/interface.md": wit_docs.reference,
    "host_python/native/realm_imports.h": wit_c_host.native_header,
    "host_python/realm/_generated/__init__.py": wit_python.package_marker,
    "host_python/realm/_generated/abi.py": wit_python.python_glue,
    "js/src/_generated/abi.ts": wit_typescript.typescript_glue,
    "host_python/realm/_generated/records.py": lambda _: records.python(),
    "js/src/_generated/records.ts": lambda _: records.typescript(),
    "js/src/_generated/core.ts": lambda _: core_typescript.generate(),
    "host_python/realm/_abi.py": lambda _: cffi_abi.generate(),  # from the headers, the first row among them
}


def main(check: bool) -> int:
    """Writes the generated files, or with `check` only compares. Returns the process's exit status."""
    try:
        package = wit.parse((ROOT / SOURCE).read_text(encoding="utf-8"))
    except wit.WitError as error:
        print(f"{SOURCE}: {error}", file=sys.stderr)
        return 1
    changed = [file for file, text in outputs(package) if update(ROOT / file, text, check)]
    for file in changed:
        print(f"{file}: {'differs from what gen makes' if check else 'written'}")
    if check and changed:
        print("run `python3 -m realm_build gen` and commit the result", file=sys.stderr)
        return 1
    return 0


def outputs(package: wit.Package) -> Iterable[tuple[str, str]]:
    return ((file, emit(package)) for file, emit in OUTPUTS.items())


def update(file: Path, text: str, check: bool) -> bool:
    """Whether the file differed (or was missing); brings it up to date unless only checking."""
    data = text.encode()
    if file.exists() and file.read_bytes() == data:
        return False
    if not check:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return True
