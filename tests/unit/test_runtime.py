"""Own guests through `Runtime`: well-behaved ones, and hostile ones, which fail alone, typed and soon."""

# ruff: noqa: E501 (WebAssembly text is data)

from __future__ import annotations

import logging
import queue
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import realm
from realm import GuestError, RealmError, ResourceLimits, Runtime
from realm._engine import Delivery, Ended, Request, RequestSpec, next_delivery

from tests.unit.wat_guests import DONE, GUEST, LOOP, OUTPUT, PENDING, TRAP, guest, host_import, wat

VECTORS = Path(__file__).parents[1] / "vectors"
CHAIN = VECTORS / "model-chain.gguf"
PICK = Path(__file__).parents[2] / "build" / "guest" / "pick.wasm"

SHORT = ResourceLimits(guest_seconds=0.2, guest_memory_bytes=1 << 20, text_bytes=1 << 16)


@pytest.fixture(params=["native", "public"])
def runtime(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    with Runtime(shim=request.param, limits=SHORT) as opened:
        yield opened


def run_code(runtime: Runtime, module: bytes, **settings: object) -> str:
    """The code a request to the module ends with; the whole must not take long."""
    began = time.monotonic()
    with runtime.load_wasm(module) as loaded, pytest.raises(RealmError) as caught:
        loaded.run(b"prompt", **settings)  # type: ignore[arg-type]
    assert time.monotonic() - began < 10
    return caught.value.code


# ---- well-behaved guests ----


def test_the_plainest_guest_runs(runtime: Runtime) -> None:
    with runtime.load_wasm(guest()) as loaded:
        for _ in range(3):
            made = loaded.run(b"prompt", extra=b"1234")
            assert (made.text, made.tokens, made.extra, made.finish_reason) == ("", (), b"", "end")


def test_an_outcome_with_lists_and_text(runtime: Runtime) -> None:
    module = guest(
        imports=host_import("emit", "iii"),
        extra='(data (i32.const 1024) "h\\c3\\a9") (data (i32.const 1040) "\\07\\00\\00\\00\\09\\00\\00\\00xyz")',
        start="(call $emit (i32.const 1) (i32.const 1024) (i32.const 1))"
        "(i32.store8 (i32.const 64) (i32.const 0)) (i32.store (i32.const 68) (i32.const 1)) (i32.const 64)",
        poll="(call $emit (local.get 0) (i32.const 1025) (i32.const 2))"
        "(i32.store8 (i32.const 80) (i32.const 0)) (i32.store8 (i32.const 81) (i32.const 2)) (i32.const 80)",
        outcome="""(i32.store8 (i32.const 128) (i32.const 0)) (i32.store8 (i32.const 132) (i32.const 2))
          (i32.store (i32.const 136) (i32.const 5))
          (i32.store (i32.const 140) (i32.const 1040)) (i32.store (i32.const 144) (i32.const 2))
          (i32.store (i32.const 148) (i32.const 1048)) (i32.store (i32.const 152) (i32.const 3)) (i32.const 128)""",
    )
    with runtime.load_wasm(module) as loaded:
        made = loaded.run()
    assert made.text == "hé"
    assert made.tokens == (7, 9)
    assert made.extra == b"xyz"
    assert (made.prompt_tokens, made.finish_reason) == (5, "length")


def test_call_function_with_every_kind_of_number(runtime: Runtime) -> None:
    module = wat("""
      (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
      (func (export "wide") (param i64) (result i64) (i64.sub (local.get 0) (i64.const 1)))
      (func (export "half") (param f64 f32) (result f64) (f64.mul (local.get 0) (f64.const 0.5)))
      (func (export "nothing"))
      (func (export "reference") (param externref))
      (memory (export "memory") 1)""")
    loaded = runtime.load_wasm(module)
    assert loaded.exports == ["add", "half", "memory", "nothing", "reference", "wide"]
    assert loaded.call_function("add", 40, 2) == 42
    assert loaded.call_function("add", 0xFFFFFFFF, 2) == 1
    assert loaded.call_function("wide", 1 << 40) == (1 << 40) - 1
    assert loaded.call_function("half", 3, 1.5) == 1.5
    assert runtime.call_function("nothing") is None
    for name, arguments, code in (
        ("add", (1,), "invalid-argument"),
        ("add", (1, "2"), "invalid-argument"),
        ("add", (1, 1 << 32), "invalid-argument"),
        ("add", (1, 1.5), "invalid-argument"),
        ("reference", (1,), "unsupported"),
        ("memory", (), "guest-invalid"),
        ("absent", (), "guest-invalid"),
    ):
        with pytest.raises(RealmError) as caught:
            loaded.call_function(name, *arguments)
        assert caught.value.code == code
    assert loaded.call_function("add", 1, 2) == 3


@pytest.mark.skipif(not PICK.exists(), reason="the example guest is not built")
def test_the_example_guest_picks_the_likeliest_answer(runtime: Runtime) -> None:
    """In the chain model "ok" follows "3" far ahead of all else: its probability is next to 1."""
    answers = [b"Hi", b"ok", b"x"]
    model = runtime.load_model(CHAIN)
    with runtime.load_wasm(PICK, limits=ResourceLimits()) as loaded:
        packed = b"".join(struct.pack("<I", len(text)) + text for text in answers)
        for _ in range(2):
            made = loaded.run("3", model=model, extra=packed)
            winner, *scores = struct.unpack("<I3f", made.extra)
            assert winner == 1
            assert scores[1] == pytest.approx(0, abs=1e-3)
            assert max(scores[0], scores[2]) < -10
        with pytest.raises(RealmError) as caught:
            loaded.run("3", model=model, extra=b"\xff\xff\xff\xff")
        assert caught.value.code == "invalid-argument"


# ---- guests that misbehave ----


@pytest.mark.parametrize("entry", ["start", "poll", "outcome", "realloc"])
@pytest.mark.parametrize(("body", "code"), [(LOOP, "timed-out"), (TRAP, "guest-trap")])
def test_a_loop_or_trap_in_a_request_is_stopped(runtime: Runtime, entry: str, body: str, code: str) -> None:
    assert run_code(runtime, guest(**{entry: body})) == code


@pytest.mark.parametrize("entry", ["cancel", "release"])
@pytest.mark.parametrize(("body", "code"), [(LOOP, "timed-out"), (TRAP, "guest-trap")])
def test_a_loop_or_trap_in_cancel_or_release_is_stopped(
    runtime: Runtime, entry: str, body: str, code: str
) -> None:
    engine = runtime._engine
    poll = OUTPUT if entry == "cancel" else DONE
    with runtime.load_wasm(guest(poll=poll, **{entry: body.removesuffix(" (unreachable)")})) as loaded:
        inner, deliveries = loaded._guest, queue.SimpleQueue[Delivery]()
        spec = RequestSpec(model=None, sampling=realm.Sampling())
        request = Request(inner, spec, streaming=False, deliver=deliveries.put)

        def act() -> None:  # in the pump, so that no poll comes in between
            engine._start(request)
            if entry == "cancel":
                engine._cancel(request)

        engine.run(act)
        assert isinstance(next_delivery(deliveries), Ended)
        assert engine.run(lambda: inner.problem).code == code
        with pytest.raises(GuestError):
            loaded.run()


def test_a_stopped_guest_stays_stopped_and_others_go_on(runtime: Runtime) -> None:
    good, bad = runtime.load_wasm(guest()), runtime.load_wasm(guest(poll=TRAP))
    with pytest.raises(GuestError):
        bad.run()
    with pytest.raises(GuestError) as caught:
        bad.run()
    assert caught.value.code == "guest-trap"
    assert "load the module again" in caught.value.message
    assert good.run().finish_reason == "end"


def test_waiting_for_nothing_is_stalled(runtime: Runtime) -> None:
    assert run_code(runtime, guest(poll=PENDING)) == "stalled"


def test_output_without_text_for_ever_is_stalled(runtime: Runtime) -> None:
    if runtime._engine.options.shim == "public":
        pytest.skip("the same loop of the shim, only slower")
    assert run_code(runtime, guest(poll=OUTPUT)) == "stalled"


def test_endless_text_meets_its_limit(runtime: Runtime) -> None:
    poll = f"(call $emit (local.get 0) (i32.const 0) (i32.const 4096)) {OUTPUT}"
    assert run_code(runtime, guest(imports=host_import("emit", "iii"), poll=poll)) == "guest-trap"


def test_text_for_a_foreign_request_traps(runtime: Runtime) -> None:
    poll = f"(call $emit (i32.const 77) (i32.const 0) (i32.const 1)) {OUTPUT}"
    assert run_code(runtime, guest(imports=host_import("emit", "iii"), poll=poll)) == "guest-trap"


def test_greedy_guests_meet_the_memory_limit(runtime: Runtime) -> None:
    grow = "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) (unreachable)"
    assert run_code(runtime, guest(poll=grow)) == "guest-memory"
    with pytest.raises(GuestError) as caught:
        runtime.load_wasm(guest(pages="64"))
    assert caught.value.code == "guest-memory"


def test_a_prompt_too_large_for_the_guest(runtime: Runtime) -> None:
    """The bump allocator of the test guest does not grow: the memory it gives lies outside."""
    with runtime.load_wasm(guest()) as loaded, pytest.raises(GuestError) as caught:
        loaded.run(b"x" * 500_000)
    assert caught.value.code == "guest-memory"


@pytest.mark.parametrize(
    "bodies",
    [
        {"start": "(i32.const -4)"},
        {"start": "(i32.const 131070)"},
        {"start": "(i32.const 66)"},
        {"poll": "(i32.const -1)"},
        {"poll": "(i32.const 131071)"},
        {"outcome": "(i32.const 131060)"},
        {"poll": "(i32.store8 (i32.const 80) (i32.const 7)) (i32.const 80)"},
        {"outcome": "(memory.fill (i32.const 128) (i32.const 0) (i32.const 28))"
         "(i32.store (i32.const 140) (i32.const -16)) (i32.store (i32.const 144) (i32.const 9)) (i32.const 128)"},
        {"outcome": "(memory.fill (i32.const 128) (i32.const 0) (i32.const 28))"
         "(i32.store (i32.const 152) (i32.const -1)) (i32.const 128)"},
    ],
)  # fmt: skip
def test_results_outside_the_memory(runtime: Runtime, bodies: dict[str, str]) -> None:
    assert run_code(runtime, guest(**bodies)) == "guest-trap"


@pytest.mark.parametrize(
    "realloc", ["(i32.const 0)", "(i32.const -16)", "(i32.const 131072)", "(i32.const 3)"]
)
def test_an_allocator_that_lies(runtime: Runtime, realloc: str) -> None:
    assert run_code(runtime, guest(realloc=realloc), extra=b"1") == "guest-memory"


def test_errors_of_the_guest_arrive_with_their_code(runtime: Runtime) -> None:
    refuse = (
        "(i32.store8 (i32.const 64) (i32.const 1)) (i32.store8 (i32.const 68) (i32.const {})) (i32.const 64)"
    )
    assert run_code(runtime, guest(start=refuse.format(15))) == "busy"
    assert run_code(runtime, guest(start=refuse.format(250))) == "internal"
    poll = (
        "(i32.store8 (i32.const 80) (i32.const 1)) (i32.store8 (i32.const 81) (i32.const 3)) (i32.const 80)"
    )
    assert run_code(runtime, guest(poll=poll)) == "not-found"
    failed = (
        "(memory.fill (i32.const 128) (i32.const 0) (i32.const 28)) (i32.store8 (i32.const 132) (i32.const 4))"
        "(i32.store8 (i32.const 133) (i32.const 13)) (i32.const 128)"
    )
    assert run_code(runtime, guest(outcome=failed)) == "context-full"


def test_the_same_handle_twice_is_refused(runtime: Runtime) -> None:
    with runtime.load_wasm(guest(poll=PENDING)) as loaded:
        with pytest.raises(RealmError):
            loaded.run()
        with pytest.raises(RealmError):
            loaded.run()


# ---- modules that do not fit ----


@pytest.mark.parametrize(
    "module",
    [
        b"",
        b"\0asm",
        b"not wasm at all",
        guest()[:-7],
        wat('(import "env" "puts" (func (param i32)))'),
        wat(f'(import "{GUEST}" "start" (func))'),
        wat(host_import("forward", "ii")),
        wat(host_import("no-such-import", "i")),
        wat('(func (export "f") (param v128))'),
        wat('(func (export "f") (param anyref))'),
        wat('(type $t (struct)) (func (export "f") (param (ref $t)))'),
        wat("(memory i64 1)"),
        wat("(memory 1) (memory 1)"),
        wat("(memory 1 1 shared)"),
    ],
)
def test_modules_that_cannot_be_loaded(runtime: Runtime, module: bytes) -> None:
    with pytest.raises(GuestError) as caught:
        runtime.load_wasm(module)
    assert caught.value.code == "guest-invalid"


@pytest.mark.parametrize(
    "module",
    [
        wat('(memory (export "memory") 1)'),
        guest().replace(b"#poll", b"#pull"),
        wat(f'(memory (export "memory") 1) (func (export "{GUEST}start"))'),
    ],
)
def test_modules_that_are_no_orchestrators(runtime: Runtime, module: bytes) -> None:
    assert run_code(runtime, module) == "guest-invalid"


def test_files_that_are_no_modules(runtime: Runtime, tmp_path: Path) -> None:
    for source, code in ((tmp_path / "absent.wasm", "not-found"), (tmp_path, "io")):
        with pytest.raises(RealmError) as caught:
            runtime.load_wasm(source)
        assert caught.value.code == code


def test_a_start_section_that_loops_is_stopped(runtime: Runtime) -> None:
    with pytest.raises(GuestError) as caught:
        runtime.load_wasm(wat("(func $s (loop $l (br $l))) (start $s)"))
    assert caught.value.code == "timed-out"


def test_a_call_that_loops_through_imports_is_stopped(runtime: Runtime) -> None:
    """Allocations inside imports must not renew the deadline of the call around them."""
    model = runtime.load_model(CHAIN)
    body = "(loop $l (call $encode (i32.const 1) (i32.const 0) (i32.const 4) (i32.const 0) (i32.const 0)"
    body += " (i32.const 64)) (br $l)) (unreachable)"
    module = guest(imports=host_import("encode", "iiiiii"), realloc="(i32.const 8192)", poll=body)
    with runtime.load_wasm(module) as loaded, pytest.raises(GuestError) as caught:
        loaded.run(model=model)
    assert caught.value.code == "timed-out"


def test_imports_inside_the_allocator_are_refused(runtime: Runtime) -> None:
    realloc = "(call $session-close (i32.const 1)) (i32.const 8192)"
    poll = """(call $encode (i32.const 1) (i32.const 0) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 64))
      (unreachable)"""
    imports = host_import("session-close", "i") + host_import("encode", "iiiiii")
    model = runtime.load_model(CHAIN)
    with runtime.load_wasm(guest(imports=imports, realloc=realloc, poll=poll)) as loaded:
        with pytest.raises(GuestError) as caught:
            loaded.run(model=model)
        assert caught.value.code == "guest-trap"


# ---- every import: bad pointers and forged handles ----

# The flat parameters, one word each: v a value, pN a list of N-byte elements (pointer and length), rN the place of a
# result of N bytes.
IMPORTS = {
    "model-info": "v r28",
    "encode": "v p1 v v r12",
    "decode": "v p4 v v r12",
    "session-open": "v r8",
    "session-position": "v r8",
    "session-rewind": "v v r8",
    "forward": "v p4 r8",
    "forward-layers": "v v v p4 r8",
    "score": "v p4 r8",
    "sample": "v f v f f f f f v l v p8 r16",
    "generate": "v p4 f v f f f f f v l v p8 v r8",
    "ticket-tokens": "v r12",
    "ticket-scores": "v r12",
    "ticket-tensor": "v r8",
    "tensor-create": "v v p4 r8",
    "tensor-weight": "v p1 r8",
    "tensor-read": "v r12",
    "matmul": "v v r8",
    "matmul-transposed": "v v r8",
    "store-layer": "l v r8",
    "load-layer": "l r8",
    "cache-stats": "r40",
    "emit": "v p1",
    "log": "v p1",
}
RETURNING = ("ticket-ready", "ticket-error")
SILENT = ("session-close", "ticket-cancel", "ticket-drop", "tensor-drop")
NO_ERROR = ("cache-stats", "emit", "log", "tensor-create", "load-layer", "store-layer")
MEMORY = 2 * 65536


def attack(name: str, pick: Callable[[int, str], list[int]]) -> bytes:
    """A module whose export `go` calls the import and returns the first byte of its result and the byte of its error."""
    letters, values, ret = "", [], 0
    for index, word in enumerate(IMPORTS[name].split()):
        numbers = pick(index, word)
        letters += {"p": "ii", "r": "i", "v": "i", "f": "f", "l": "l"}[word[0]]
        kinds = {"p": ["i32", "i32"], "r": ["i32"], "v": ["i32"], "f": ["f32"], "l": ["i64"]}[word[0]]
        values += [f"({kind}.const {number})" for kind, number in zip(kinds, numbers, strict=True)]
        ret = numbers[0] if word[0] == "r" else ret
    result = f"(i32.add (i32.mul (i32.load8_u (i32.const {ret})) (i32.const 256)) (i32.load8_u (i32.const {ret + 4})))"
    go = f'(func (export "go") (result i32) (call ${name} {" ".join(values)}) {result if 0 <= ret < 65536 else "(i32.const 0)"})'
    return guest(imports=host_import(name, letters), extra=go)


def usual(word: str) -> list[int]:
    return {"p": [1024, 1], "r": [512], "v": [1], "f": [1], "l": [1]}[word[0]]


def with_bad(position: int, values: list[int]) -> Callable[[int, str], list[int]]:
    return lambda index, word: values if index == position else usual(word)


def bad_pointers() -> list[tuple[str, int, list[int]]]:
    cases = []
    for name, words in IMPORTS.items():
        for index, word in enumerate(words.split()):
            size = int(word[1:] or 1)
            if word[0] == "p":
                bad = [
                    [MEMORY, 1],
                    [-16, 1],
                    [MEMORY - size, 2],
                    [0, -1],
                    [16, 0x7FFFFFFF],
                    [MEMORY - 8, 1 << 30],
                ]
                cases += [(name, index, case) for case in bad]
                cases += [(name, index, [1026 if size == 4 else 1028 + 2, 1])] if size > 1 else []
            elif word[0] == "r":
                cases += [(name, index, [place]) for place in (MEMORY, -8, MEMORY - size + 4, 514)]
    return cases


@pytest.mark.parametrize("shim", ["native", "public"])
def test_bad_pointers_in_every_import(shim: str) -> None:
    with Runtime(shim=shim, limits=SHORT) as opened:
        cases = bad_pointers()
        assert len(cases) > 150
        for name, position, values in cases if shim == "native" else cases[::7]:
            module = attack(name, with_bad(position, values))
            with opened.load_wasm(module) as loaded, pytest.raises(RealmError) as caught:
                loaded.call_function("go")
            assert caught.value.code == "guest-trap", (name, position, values)


@pytest.mark.parametrize("name", [name for name in IMPORTS if name not in NO_ERROR])
@pytest.mark.parametrize("handle", [0, 1, 7, -1, 0x7FFFFFFF])
def test_forged_handles_in_every_import(runtime: Runtime, name: str, handle: int) -> None:
    """No model was granted and nothing opened: every handle is forged, and the guest hears invalid-handle."""
    module = attack(name, lambda i, word: [handle] if i == 0 else usual(word))
    with runtime.load_wasm(module) as loaded:
        assert loaded.call_function("go") == 256 + 1


@pytest.mark.parametrize("name", RETURNING + SILENT)
def test_forged_handles_where_nothing_can_be_returned(runtime: Runtime, name: str) -> None:
    returns = name in RETURNING
    body = f"(call ${name} (local.get 0))" + ("" if returns else " (i32.const 0)")
    module = guest(
        imports=host_import(name, "i", returns), extra=f'(func (export "go") (param i32) (result i32) {body})'
    )
    expected = {"ticket-ready": 3, "ticket-error": 1}.get(name, 0)
    with runtime.load_wasm(module) as loaded:
        for handle in (0, 1, -1):
            assert loaded.call_function("go", handle) == expected


def test_every_import_of_the_interface_is_attacked() -> None:
    import re

    wit = (Path(__file__).parents[2] / "guest_src" / "realm.wit").read_text()
    host = wit[wit.index("interface host {") : wit.index("interface guest {")]
    names = set(re.findall(r"^  ([a-z-]+): func", host, re.MULTILINE))
    assert names == set(IMPORTS) | set(RETURNING) | set(SILENT)


def test_the_layer_store_of_one_guest() -> None:
    """store-layer keeps a copy; load-layer of an unknown address fails; both in result form."""
    module = attack("store-layer", lambda i, word: [99] if word == "v" else usual(word))
    with Runtime(limits=SHORT) as opened, opened.load_wasm(module) as loaded:
        assert loaded.call_function("go") == 256 + 1


# ---- time of the thread of all guests ----

# Some milliseconds, then one character and another turn.
COUNTING_START = """(global.set $handle (i32.add (global.get $handle) (i32.const 1)))
  (i32.store8 (i32.const 64) (i32.const 0)) (i32.store (i32.const 68) (global.get $handle)) (i32.const 64)"""
SLOW_OUTPUT = f"""(local $i i32)
  (loop $more (local.set $i (i32.add (local.get $i) (i32.const 1)))
    (br_if $more (i32.lt_u (local.get $i) (i32.const 8000000))))
  (call $emit (local.get 0) (i32.const 1024) (i32.const 1)) {OUTPUT}"""


@pytest.mark.parametrize("requests", [1, 20])
def test_a_slow_guest_does_not_hold_up_the_others(runtime: Runtime, requests: int) -> None:
    """Its polls until another guest's request has ended: a turn is bounded in time, over all its requests."""
    module = guest(
        imports=host_import("emit", "iii"),
        start=COUNTING_START,
        poll=SLOW_OUTPUT,
        extra="(global $handle (mut i32) (i32.const 0))",
    )
    engine, spec = runtime._engine, RequestSpec(model=None, sampling=realm.Sampling())
    heard = queue.SimpleQueue[Delivery]()
    limits = ResourceLimits(guest_seconds=2)
    with runtime.load_wasm(module, limits=limits) as slow, runtime.load_wasm(guest()) as other:

        def begin() -> None:  # all in one turn of the pump
            for _ in range(requests):
                engine._start(Request(slow._guest, spec, streaming=False, deliver=lambda delivery: None))
            engine._start(Request(other._guest, spec, streaming=False, deliver=heard.put))

        engine.run(begin)
        assert isinstance(heard.get(timeout=60), Ended)
        polls = engine.run(lambda: sum(len(engine._take_text(r)) for r in list(engine._requests.values())))
    assert polls <= 12


# ---- logging, closing ----


def test_the_log_import_reaches_python_and_costs_a_fixed_amount(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    poll = """(local $i i32)
      (loop $more (call $log (i32.const 2) (i32.const 1024) (i32.const 5))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $more (i32.lt_u (local.get $i) (i32.const 10000))))
      (i32.store8 (i32.const 80) (i32.const 0)) (i32.store8 (i32.const 81) (i32.const 2)) (i32.const 80)"""
    module = guest(imports=host_import("log", "iii"), poll=poll, extra='(data (i32.const 1024) "hello")')
    with (
        caplog.at_level("DEBUG", logger="realm.guest"),
        runtime.load_wasm(module, limits=ResourceLimits()) as loaded,
    ):
        loaded.run()
    records = [record for record in caplog.records if record.name == "realm.guest"]
    assert 100 < len(records) <= 16 * 1024 // 7 + 1
    assert {(record.levelname, record.getMessage()) for record in records} == {("WARNING", "hello")}


def test_a_guest_cannot_forge_lines_of_the_log(runtime: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    poll = f"(call $log (i32.const 1) (i32.const 1024) (i32.const 17)) {DONE}"
    data = r'(data (i32.const 1024) "first\0azebra\0d3\1b[m\7f")'
    module = guest(imports=host_import("log", "iii"), poll=poll, extra=data)
    with caplog.at_level("DEBUG", logger="realm.guest"), runtime.load_wasm(module) as loaded:
        loaded.run()
    records = [record for record in caplog.records if record.name == "realm.guest"]
    assert [(record.levelname, record.getMessage()) for record in records] == [("INFO", "first zebra 3 [m ")]


def test_an_event_that_cannot_be_handled_is_no_others_end(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    """A log filter of the application's that raises, in the thread of all realms."""

    class Fails(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            if record.getMessage() == "hello":
                raise ValueError("a mistake of the application's")
            return True

    poll = f"(call $log (i32.const 2) (i32.const 1024) (i32.const 5)) {PENDING}"
    module = guest(imports=host_import("log", "iii"), poll=poll, extra='(data (i32.const 1024) "hello")')
    log, fails = logging.getLogger("realm.guest"), Fails()
    log.addFilter(fails)
    try:
        with runtime.load_wasm(module) as loaded, runtime.load_wasm(guest()) as other:
            spec, heard = RequestSpec(model=None, sampling=realm.Sampling()), queue.SimpleQueue[Delivery]()
            runtime._engine.start(loaded._guest, spec, streaming=False, deliver=lambda delivery: None)
            runtime._engine.start(other._guest, spec, streaming=False, deliver=heard.put)
            ended = heard.get(timeout=20)
            assert isinstance(ended, Ended) and ended.problem is None
    finally:
        log.removeFilter(fails)
    assert "could not be handled" in caplog.text


def test_everything_is_refused_after_close() -> None:
    opened = Runtime()
    loaded = opened.load_wasm(guest())
    opened.close()
    opened.close()
    calls: list[Callable[[], object]] = [
        lambda: opened.load_wasm(guest()),
        lambda: opened.load_model(CHAIN),
        lambda: opened.call_function("x"),
        lambda: loaded.run(),
        lambda: loaded.call_function("x"),
    ]
    for call in calls:
        with pytest.raises(realm.ClosedError):
            call()
