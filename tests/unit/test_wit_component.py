"""Guest modules wrapped into components: wasmtime's component model judges our canonical-ABI lowering.

Validation accepts a component only if each core signature is the prescribed one. Running a request
through it shows that sizes, offsets and lists are what the component model reads and writes, with none of
our own glue in between.
"""

from __future__ import annotations

import dataclasses
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest
import wasmtime
from realm._generated import abi
from wasmtime import component

from realm_build import guest as guest_build
from realm_build import wit, wit_component, wit_layout
from realm_build.paths import ROOT
from tests.unit.guest_host import ScriptedHost, request

PACKAGE = wit.parse((ROOT / "guest_src" / "realm.wit").read_text(encoding="utf-8"))
WORDS = [b"<end>", b"<begin>", b" Paris", b"\xf0\x9f", b"\x98\x80", b" the"]


@pytest.fixture(scope="session", params=range(1 + len(list((ROOT / "guest_src" / "examples").glob("*.c")))))
def module(request: pytest.FixtureRequest) -> Path:
    number: int = request.param
    return guest_build.build_guests()[number]


def wrapped(engine: wasmtime.Engine, path: Path, package: wit.Package = PACKAGE) -> component.Component:
    data = path.read_bytes()
    imports = [item.name for item in wasmtime.Module(engine, data).imports]
    text = wit_component.component(package, [name for name in imports if name is not None])
    return component.Component(engine, wit_component.embed(bytes(wasmtime.wat2wasm(text)), data))


def test_every_guest_is_a_valid_component(module: Path) -> None:
    wrapped(wasmtime.Engine(), module)


def test_a_wrong_signature_is_noticed() -> None:
    """The judge judges: with one more parameter in the interface the same module is refused."""
    source = (ROOT / "guest_src" / "realm.wit").read_text(encoding="utf-8")
    changed = source.replace(
        "func(session: u32, tokens: list<u32>)", "func(session: u32, tokens: list<u32>, more: u64)"
    )
    assert changed != source
    with pytest.raises(wasmtime.WasmtimeError, match="type mismatch|not found|expected"):
        wrapped(wasmtime.Engine(), guest_build.build_guests()[0], wit.parse(changed))


# ---- running it ----


def to_component(value: Any) -> Any:
    """Values of the glue as wasmtime's component interface has them."""
    if isinstance(value, IntEnum):
        return value.name.lower().replace("_", "-")
    if dataclasses.is_dataclass(value):
        record = component.Record()
        for field in dataclasses.fields(value):
            setattr(record, field.name.replace("_", "-"), to_component(getattr(value, field.name)))
        return record
    if isinstance(value, list | tuple):
        return [to_component(item) for item in value]
    return value


def define_imports(linker: component.Linker, host: ScriptedHost) -> None:
    def importer(name: str) -> Any:
        def call(store: object, *arguments: Any) -> Any:
            try:
                return to_component(getattr(host, name.replace("-", "_"))(*arguments))
            except abi.InterfaceError as error:
                return to_component(error.code)

        return call

    (interface,) = PACKAGE.world.imports
    with linker.root() as root:
        with root.add_instance("realm:orchestrator/types@0.1.0"):
            pass
        with root.add_instance(abi.IMPORT_MODULE) as instance:
            for name in interface.functions:
                instance.add_func(name, importer(name))


@pytest.mark.parametrize("mode", list(abi.Mode))
def test_a_request_runs_through_the_component_model(mode: abi.Mode) -> None:
    engine = wasmtime.Engine()
    host = ScriptedHost(WORDS, [2, 3, 4, 5, 2])
    linker = component.Linker(engine)
    define_imports(linker, host)
    store = wasmtime.Store(engine)
    whole = wrapped(engine, guest_build.build_guests()[0])
    instance = linker.instantiate(store, whole)
    exports = instance.get_export_index(store, abi.EXPORT_MODULE)

    def call(name: str, *arguments: Any) -> Any:
        index = instance.get_export_index(store, name, exports)
        assert index is not None
        function = instance.get_func(store, index)
        assert function is not None
        result = function(store, *arguments)
        function.post_return(store)
        return result

    asked = request(
        mode=mode, max_tokens=9, stops=[b"the P", b"x" * 500], biases=[abi.Bias(4, -1.5)], prompt=b"12"
    )
    handle = call("start", to_component(asked))
    for _ in range(100):
        step = call("poll", handle)
        if step.payload == "done":
            break
    report = call("outcome", handle)
    assert (report.finish, report.tokens, getattr(report, "prompt-tokens")) == ("stop", [2, 3, 4, 5, 2], 3)
    assert host.text[handle] == " Paris\U0001f600 "
    call("release", handle)
    assert call("poll", handle) == component.Variant("err", "invalid-handle")


def test_sizes_of_records_by_hand() -> None:
    """Offsets counted by hand from the canonical ABI's rules."""
    types = {item.name: item for item in PACKAGE.types}
    sampling, token, asked = types["sampling"], types["token"], types["request"]
    assert isinstance(sampling, wit.Record)
    assert isinstance(token, wit.Record)
    assert isinstance(asked, wit.Record)
    assert wit_layout.field_offsets(token) == {"id": 0, "is-end": 4, "logprob": 8}
    assert (wit_layout.field_offsets(sampling)["seed"], wit_layout.size(sampling)) == (32, 48)
    offsets = wit_layout.field_offsets(asked)
    assert [offsets[name] for name in ("prompt", "add-special", "parse-special", "stops")] == [4, 12, 13, 16]
    assert [offsets[name] for name in ("max-tokens", "mode", "params", "biases", "extra")] == [
        24,
        28,
        32,
        80,
        88,
    ]
    assert wit_layout.size(asked) == 96
