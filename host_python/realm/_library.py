"""Finds and loads the native library (the C core and the shim) and turns its statuses into errors.

Calls through `lib` release the GIL. Everything cffi knows of the library comes from _abi.py.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

from . import _abi
from ._errors import RealmError, error, limit_error

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parents[1]  # meaningful only when the package runs from its sources
ABI_VERSION = 1
NO_TOKEN = 0xFFFFFFFF

ffi: Any = _abi.ffi


@cache
def library() -> Any:
    """The loaded library. Raises backend-unavailable when it is missing or of another version."""
    name = {"win32": "realm.dll", "darwin": "librealm.dylib"}.get(sys.platform, "librealm.so")
    path = PACKAGE / "_native" / name
    if not path.exists():
        raise error("backend-unavailable", f"the native library is missing: {path}; {how_to_build()}")
    try:
        lib = ffi.dlopen(str(path))
        version = lib.realm_abi_version()
    except (OSError, AttributeError) as problem:
        raise error("backend-unavailable", f"the native library cannot be loaded: {problem}") from None
    if version != ABI_VERSION:
        raise error(
            "backend-unavailable", f"the native library has ABI {version}, this package needs {ABI_VERSION}"
        )
    return lib


def how_to_build() -> str:
    if (CHECKOUT / "realm_build").is_dir():
        return "build it with: python3 -m realm_build build"
    return "install the package again: pip install --force-reinstall realm-ai"


def asset(packaged: str, in_checkout: str) -> Path:
    """A file that ships inside the package, or stands elsewhere in a checkout."""
    inside = PACKAGE / packaged
    return inside if inside.exists() else CHECKOUT / in_checkout


def new_error() -> Any:
    return ffi.new("realm_error *")


def check(status: int, err: Any, doing: str = "") -> None:
    """Raises the typed error of a status that is not REALM_OK."""
    if status:
        raise status_error(status, err, doing)


def status_error(status: int, err: Any, doing: str = "") -> RealmError:
    code = status_name(status)
    text = ffi.string(err.message).decode("utf-8", "replace") if err is not None and err.code else ""
    message = text or code.replace("-", " ")
    return said_limit(code, f"{doing}: {message}" if doing else message, err)


def said_limit(code: str, message: str, said: Any) -> RealmError:
    """The error, with what a realm_error or shim_outcome says about a limit."""
    if said is None or not said.limit:
        return error(code, message)
    name = ffi.string(library().realm_limit_name(said.limit)).decode()
    retry_after = said.retry_after_ns / 1e9 if said.retry_after_ns else None
    return limit_error(code, message, name, int(said.limit_value), retry_after)


def status_name(status: int) -> str:
    return str(ffi.string(library().realm_status_name(status)).decode())
