"""A hostile guest in WebAssembly: calls every import of realm.wit with handles it was not given.

Handles are numbers it got itself (open or closed by now), what another realm's handles look like, and random
ones. Pointers are valid, because a bad one would end the guest at once. The first four bytes of a request's
`extra` seed its choices. It answers with nothing; what it must not do shows in the other realms.
"""

# ruff: noqa: E501 (WebAssembly text is data)

from __future__ import annotations

from realm._library import ffi, library

from tests.unit.wat_guests import BODIES, DONE, guest, host_import

CALLS = 80  # of imports in one poll
# What each parameter is: h handle, p pointer, n small number, b bool, r where the result goes, x anything, f a setting, q request
ROLES = {
    "model-info": "hr", "encode": "hpnbbr", "decode": "hpnbbr",
    "session-open": "hr", "session-close": "h", "session-position": "hr", "session-rewind": "hnr",
    "forward": "hpnr", "forward-layers": "hnnpnr", "score": "hpnr",
    "sample": "hfnfffffnxbpnr", "generate": "hpnfnfffffnxbpnnr",
    "ticket-ready": "h", "ticket-error": "h", "ticket-tokens": "hr", "ticket-scores": "hr", "ticket-tensor": "hr",
    "ticket-cancel": "h", "ticket-drop": "h",
    "tensor-create": "nnpnr", "tensor-weight": "hpnr", "tensor-read": "hr", "tensor-drop": "h",
    "matmul": "hhr", "matmul-transposed": "hhr",
    "store-layer": "xhr", "load-layer": "xr", "cache-stats": "r", "emit": "qpn", "log": "npn",
}  # fmt: skip

# Memory: the seed at 32, handles it was given at 512 (16 of them), the result area at 256, data at 1024 to 4096.
SUPPORT = """
  (func $random (result i32)
    (i32.store (i32.const 32) (i32.add (i32.mul (i32.load (i32.const 32)) (i32.const 1664525)) (i32.const 1013904223)))
    (i32.shr_u (i32.load (i32.const 32)) (i32.const 4)))
  (func $below (param i32) (result i32) (i32.rem_u (call $random) (local.get 0)))
  (func $own (param i32) (result i32) (i32.add (i32.const 512) (i32.shl (local.get 0) (i32.const 2))))
  (func $handle (result i32) (local $how i32)
    (local.set $how (call $below (i32.const 8)))
    (if (i32.lt_u (local.get $how) (i32.const 4)) (then (return (i32.load (call $own (call $below (i32.const 16)))))))
    (if (i32.lt_u (local.get $how) (i32.const 7)) (then (return (i32.or
      (call $below (i32.const 6)) (i32.shl (call $below (i32.const 4)) (i32.const 20))))))
    (call $random))
  (func $keep (if (i32.eqz (i32.load8_u (i32.const 256)))
    (then (i32.store (call $own (call $below (i32.const 16))) (i32.load (i32.const 260))))))
"""
VALUES = {
    "h": "(call $handle)",
    "p": "(i32.const 1024)",
    "n": "(call $below (i32.const 12))",
    "b": "(call $below (i32.const 2))",
    "r": "(i32.const 256)",
    "f": "(f32.const 1)",
    "q": "(i32.const 1)",  # for a request that does not run, the guest would end
}


def argument(role: str, letter: str) -> str:
    if role == "x":
        return "(i64.extend_i32_u (call $below (i32.const 4)))" if letter == "l" else "(call $random)"
    return VALUES[role]


def call(index: int, name: str, letters: str, result: bool) -> str:
    roles = ROLES[name]
    assert len(roles) == len(letters), name
    values = " ".join(argument(role, letter) for role, letter in zip(roles, letters, strict=True))
    after = "(drop)" if result else "(call $keep)" if "r" in roles else ""
    return f"(if (i32.eq (local.get $which) (i32.const {index})) (then (call ${name} {values}) {after}))"


def build() -> bytes:
    lib = library()
    imports, calls = [], []
    for index in range(lib.shim_import_count()):
        info = lib.shim_import_at(index)
        name, letters = ffi.string(info.name).decode(), ffi.string(info.parameters).decode()
        imports.append(host_import(name, letters, bool(info.has_result)))
        calls.append(call(index, name, letters, bool(info.has_result)))
    poll = f"""(local $which i32) (local $left i32)
      (local.set $left (i32.const {CALLS}))
      (loop $again
        (global.set $heap (i32.const 8192))
        (local.set $which (call $below (i32.const {len(calls)})))
        {" ".join(calls)}
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (br_if $again (local.get $left)))
      {DONE}"""
    seed = "(i32.store (i32.const 32) (i32.load (i32.load (i32.add (local.get 0) (i32.const 88)))))"
    return guest(SUPPORT, "\n".join(imports), pages="64", start=seed + BODIES["start"], poll=poll)
