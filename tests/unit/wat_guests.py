"""Small guests in WebAssembly text for the tests: a well-behaved one whose functions a test replaces by hostile ones."""

# ruff: noqa: E501 (WebAssembly text is data)

from __future__ import annotations

import wasmtime

HOST = "realm:orchestrator/host@0.1.0"
GUEST = "realm:orchestrator/guest@0.1.0#"

# Results lie at fixed places: start at 64, poll at 80, outcome at 128.
BODIES = {
    "realloc": """(local $p i32)
      (local.set $p (i32.and (i32.add (global.get $heap) (i32.const 15)) (i32.const -16)))
      (global.set $heap (i32.add (local.get $p) (local.get 3)))
      (local.get $p)""",
    "start": "(i32.store8 (i32.const 64) (i32.const 0)) (i32.store (i32.const 68) (i32.const 1)) (i32.const 64)",
    "poll": "(i32.store8 (i32.const 80) (i32.const 0)) (i32.store8 (i32.const 81) (i32.const 2)) (i32.const 80)",
    "outcome": "(memory.fill (i32.const 128) (i32.const 0) (i32.const 28)) (i32.const 128)",
    "cancel": "",
    "release": "",
}
DONE = BODIES["poll"]
PENDING = "(i32.store8 (i32.const 80) (i32.const 0)) (i32.store8 (i32.const 81) (i32.const 0)) (i32.const 80)"
OUTPUT = "(i32.store8 (i32.const 80) (i32.const 0)) (i32.store8 (i32.const 81) (i32.const 1)) (i32.const 80)"
LOOP = "(loop $forever (br $forever)) (unreachable)"
TRAP = "(unreachable)"


def guest(extra: str = "", imports: str = "", pages: str = "2", **bodies: str) -> bytes:
    """A module with the interface's exports; `bodies` replace the default ones, `extra` adds definitions."""
    body = {**BODIES, **bodies}
    return wat(f"""
      {imports}
      (memory (export "memory") {pages})
      (global $heap (mut i32) (i32.const 4096))
      (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) {body["realloc"]})
      (func (export "{GUEST}start") (param i32) (result i32) {body["start"]})
      (func (export "{GUEST}poll") (param i32) (result i32) {body["poll"]})
      (func (export "{GUEST}outcome") (param i32) (result i32) {body["outcome"]})
      (func (export "{GUEST}cancel") (param i32) {body["cancel"]})
      (func (export "{GUEST}release") (param i32) {body["release"]})
      {extra}""")


def wat(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(f"(module {text})"))


def host_import(name: str, letters: str, result: bool = False) -> str:
    """(import ...) of a host function as $name; letters: i, l, f for i32, i64, f32."""
    types = " ".join({"i": "i32", "l": "i64", "f": "f32"}[letter] for letter in letters)
    returns = "(result i32)" if result else ""
    return f'(import "{HOST}" "{name}" (func ${name} (param {types}) {returns}))'
