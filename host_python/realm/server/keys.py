"""API keys and tenants, in one TOML file that is read again when it changes.

A key is `rk-ID-SECRET` with 256 random bits; the file has its id and the SHA-256 of salt and key. A slow
hash (scrypt, argon2) protects words that people choose; nobody can try 2**256 keys, and a slow hash at each
request would only be a way to occupy this server. Comparisons take the same time for every key.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import os
import re
import secrets
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._errors import RealmError, error
from .._options import ResourceLimits
from .errors import ApiError

KEY = re.compile(r"rk-([a-z0-9]{8})-([A-Za-z0-9_-]{43})")
TENANT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
CHECK_SECONDS = 1.0  # how often the file is looked at
LOCAL = "local"  # the tenant of a server without keys
HEAD = "# Tenants and keys of `realm serve`. Keys are added with `realm serve keys add TENANT`.\n"
ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"


@dataclass(frozen=True)
class Tenant:
    name: str
    limits: ResourceLimits = field(default_factory=ResourceLimits)
    models: tuple[str, ...] | None = None  # names it may use; None: all
    admin: bool = False  # may load and unload models, read metrics and everybody's statistics

    def may_use(self, model: str) -> bool:
        return self.models is None or model in self.models


@dataclass(frozen=True)
class KeyRecord:
    id: str
    tenant: str
    salt: str
    hash: str


@dataclass(frozen=True)
class KeySet:
    """The file's contents."""

    tenants: Mapping[str, Tenant]
    keys: Mapping[str, KeyRecord]


class Keys:
    """Who calls. Looks at the file once a second; a broken new version leaves the old one in force."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._looked = 0.0
        self._seen: tuple[int, int, int] | None = None
        self.problem: str | None = None  # why the file's newest version is not in force
        self.version = 0
        self.current = KeySet({LOCAL: Tenant(LOCAL, admin=True)}, {})
        if path is not None:
            self._seen = fingerprint(path)
            self.current = read_keys(path)

    @property
    def required(self) -> bool:
        return self._path is not None

    def refresh(self) -> bool:
        """Whether the file changed and was taken over, or was found broken."""
        now = time.monotonic()
        if self._path is None or now - self._looked < CHECK_SECONDS:
            return False
        self._looked = now
        try:
            seen = fingerprint(self._path)
            if seen == self._seen:
                return False
            self._seen = seen
            self.current, self.problem = read_keys(self._path), None
            self.version += 1
        except RealmError as problem:
            changed, self.problem = self.problem != problem.message, problem.message
            return changed
        return True

    def tenant(self, authorization: str | None) -> Tenant:
        """The tenant behind an Authorization header; raises 401."""
        if self._path is None:
            return self.current.tenants[LOCAL]
        scheme, _, key = (authorization or "").partition(" ")
        record = self._record(key.strip()) if scheme.lower() == "bearer" else None
        if record is None:
            said = "no API key given" if not authorization else "this API key is not known"
            raise ApiError(
                401,
                f"{said}; send the header `Authorization: Bearer KEY`",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        return self.current.tenants[record.tenant]

    def _record(self, key: str) -> KeyRecord | None:
        match = KEY.fullmatch(key)
        found = self.current.keys.get(match[1]) if match else None
        record = found or KeyRecord("", "", "", "0" * 64)
        same = hmac.compare_digest(hash_key(key, record.salt), record.hash)
        return found if same else None


def hash_key(key: str, salt: str) -> str:
    return hashlib.sha256(f"{salt}:{key}".encode("utf-8", "replace")).hexdigest()


# ---- the file ----


def fingerprint(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError as problem:
        raise error("io", f"the keys file {path} cannot be read: {problem.strerror}") from None
    return status.st_mtime_ns, status.st_size, status.st_ino


def read_keys(path: Path) -> KeySet:
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise error(
            "not-found", f"there is no keys file {path}; make one: realm serve keys add TENANT"
        ) from None
    except (OSError, ValueError, RecursionError) as problem:
        raise error("invalid-argument", f"the keys file {path} cannot be used: {problem}") from None
    return parse_keys(data, str(path))


def parse_keys(data: Mapping[str, Any], where: str) -> KeySet:
    unknown = set(data) - {"defaults", "tenants", "keys"}
    if unknown:
        raise wrong(where, f"unknown tables {', '.join(sorted(unknown))}")
    defaults = data.get("defaults", {})
    tables = data.get("tenants", {})
    listed = data.get("keys", [])
    if not isinstance(defaults, dict) or not isinstance(tables, dict) or not isinstance(listed, list):
        raise wrong(where, "write [defaults], [tenants.NAME] and [[keys]]")
    records = [parse_record(item, where) for item in listed]
    names = {*tables, *(record.tenant for record in records)}
    tenants = {
        name: parse_tenant(name, {**defaults, **table_of(tables, name, where)}, where) for name in names
    }
    keys = {record.id: record for record in records}
    if len(keys) != len(records):
        raise wrong(where, "two keys have the same id")
    return KeySet(tenants, keys)


def table_of(tables: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    table = tables.get(name, {})
    if not isinstance(table, dict):
        raise wrong(where, f"tenant {name!r} must be a table")
    return table


def parse_tenant(name: str, table: dict[str, Any], where: str) -> Tenant:
    if not TENANT_NAME.fullmatch(name):
        raise wrong(where, f"a tenant's name has letters, digits and _ . @ -, at most 64, not {name!r}")
    own = {key: value for key, value in table.items() if key not in ("models", "admin")}
    known = {item.name for item in dataclasses.fields(ResourceLimits)}
    if set(own) - known:
        raise wrong(
            where,
            f"tenant {name}: unknown limits {', '.join(sorted(set(own) - known))}; "
            f"known: {', '.join(sorted(known))}",
        )
    models = table.get("models")
    good = models is None or (isinstance(models, list) and all(isinstance(model, str) for model in models))
    if not good or not isinstance(table.get("admin", False), bool):
        raise wrong(where, f"tenant {name}: models is a list of names, admin is true or false")
    try:
        limits = ResourceLimits(**own)
    except (RealmError, TypeError) as problem:
        raise wrong(where, f"tenant {name}: {problem}") from None
    return Tenant(name, limits, None if models is None else tuple(models), table.get("admin", False))


def parse_record(item: object, where: str) -> KeyRecord:
    names = ("id", "tenant", "salt", "hash")
    if not isinstance(item, dict) or not all(isinstance(item.get(name), str) for name in names):
        raise wrong(where, "each of [[keys]] needs id, tenant, salt and hash")
    if not re.fullmatch(r"[0-9a-f]{64}", item["hash"]):
        raise wrong(where, f"key {item['id']}: hash must be 64 hexadecimal digits")
    return KeyRecord(item["id"], item["tenant"], item["salt"], item["hash"])


def wrong(where: str, what: str) -> RealmError:
    return error("invalid-argument", f"{where}: {what}")


# ---- adding and removing ----


def add_key(path: Path, tenant: str) -> str:
    """Appends a new key's record and returns the key, which is stored nowhere."""
    if not TENANT_NAME.fullmatch(tenant):
        raise error(
            "invalid-argument", "a tenant's name has letters, digits and _ . @ -, at most 64 characters"
        )
    if path.exists():
        read_keys(path)  # do not add to what would be refused
    identity = "".join(secrets.choice(ALPHABET) for _ in range(8))
    key, salt = f"rk-{identity}-{secrets.token_urlsafe(32)}", secrets.token_hex(16)
    record = (
        f'\n[[keys]]\nid = "{identity}"\ntenant = "{tenant}"\ncreated = {time.strftime("%Y-%m-%d")}\n'
        f'salt = "{salt}"\nhash = "{hash_key(key, salt)}"\n'
    )
    old = path.read_text("utf-8") if path.exists() else HEAD
    replace_file(path, old + record)
    return key


def remove_key(path: Path, identity: str) -> str:
    """Takes a key's record out of the file; returns whose it was."""
    found = read_keys(path).keys.get(identity)
    if found is None:
        raise error("not-found", f"{path} has no key {identity!r}")
    blocks = re.split(r"(?m)^(?=\s*\[)", path.read_text("utf-8"))
    mine = re.compile(rf"^\s*id\s*=\s*[\"']{re.escape(identity)}[\"']", re.MULTILINE)
    kept = [block for block in blocks if not (block.lstrip().startswith("[[keys]]") and mine.search(block))]
    replace_file(path, "".join(kept))
    return found.tenant


def replace_file(path: Path, text: str) -> None:
    """At once and readable by its owner alone, so that a running server never sees half of it."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(
            os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
        ) as out:
            out.write(text)
        if path.exists():
            os.chmod(fresh, path.stat().st_mode & 0o777)
        os.replace(fresh, path)
    except OSError as problem:
        fresh.unlink(missing_ok=True)
        raise error("io", f"{path} cannot be written: {problem.strerror}") from None
