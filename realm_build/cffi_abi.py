"""cffi's description of realm.h and shim.h for the Python host, so that `import realm` needs no C parser."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cffi

from .paths import ROOT

HEADERS = (
    "core/include/realm_status.h",
    "core/include/realm_records.h",
    "core/include/realm.h",
    "host_python/native/shim.h",
)
BANNER = '''"""Generated from realm.h and shim.h by realm_build gen; do not edit."""

# fmt: off
# ruff: noqa
# mypy: ignore-errors
'''


def declarations(headers: Sequence[str] = HEADERS) -> str:
    """The headers without comments, preprocessor lines and markers: C that cffi's parser accepts."""
    text = "\n".join((ROOT / header).read_text(encoding="utf-8") for header in headers)
    constants = dict(re.findall(r"^#define (REALM_ERROR_CAP) (\d+)$", text, re.MULTILINE))
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    text = re.sub(r"^(#|REALM_RECORD_SIZE).*$", "", text, flags=re.MULTILINE)
    text = text.replace("REALM_API ", "").replace('extern "C" {', "")
    text = re.sub(r"^}\s*$", "", text, flags=re.MULTILINE)
    for name, value in constants.items():
        text = text.replace(name, value)
    return re.sub(r"\b1u << (\d+)", lambda match: str(1 << int(match[1])), text)


def generate() -> str:
    """The text of host_python/realm/_abi.py."""
    ffi = cffi.FFI()
    ffi.cdef(declarations())
    ffi.set_source("_abi", None)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(ffi.compile(tmpdir=folder))
        return BANNER + made.read_text(encoding="utf-8").removeprefix("# auto-generated file\n")
