"""The standard guest as a WebAssembly module, driven by a scripted host through the generated glue."""

from __future__ import annotations

import dataclasses
import itertools
import random
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from realm._generated import abi

from realm_build import guest as guest_build
from tests.unit.guest_host import GREEDY, ScriptedHost, drive, expected, instantiate, request

WORDS = [
    b"<end>",
    b"<begin>",
    b" Paris",
    b" is",
    b" the",
    b"\xf0\x9f",
    b"\x98\x80",
    b"\xe2\x82\xac",
    b"",
    b"\xff",
    b"ab",
    b"a",
]
MODES = list(abi.Mode)


@pytest.fixture(scope="session")
def module() -> Path:
    return guest_build.build_guests()[0]


def run(module: Path, host: ScriptedHost, **values: object) -> tuple[abi.Report, str]:
    guest, _ = instantiate(module, host)
    handle = guest.start(request(**values))
    report = drive(guest, handle)
    guest.release(handle)
    assert not host.sessions
    assert not host.tickets
    return report, host.text.get(handle, "")


@pytest.mark.parametrize("mode", MODES)
def test_generates_until_the_end_token(module: Path, mode: abi.Mode) -> None:
    host = ScriptedHost(WORDS, [2, 3, 4])
    report, text = run(module, host, mode=mode)
    assert (report.finish, text, list(report.tokens)) == (abi.Finish.END, " Paris is the", [2, 3, 4])
    assert report.prompt_tokens == 7
    assert mode is abi.Mode.WHOLE or host.cancelled == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_ends_at_max_tokens_without_another_forward(module: Path, mode: abi.Mode, limit: int) -> None:
    host = ScriptedHost(WORDS, [2, 3, 4, 2, 3])
    report, text = run(module, host, mode=mode, max_tokens=limit)
    assert report.finish is abi.Finish.LENGTH
    assert text == "".join([" Paris", " is", " the"][:limit])
    passes = {abi.Mode.GRANULAR: limit, abi.Mode.WHOLE: 1, abi.Mode.LAYERS: 3 * limit}
    assert host.forwards == passes[mode]


def test_zero_tokens_need_no_session(module: Path) -> None:
    host = ScriptedHost(WORDS, [2])
    report, text = run(module, host, max_tokens=0)
    assert (report.finish, text, list(report.tokens), host.forwards) == (abi.Finish.LENGTH, "", [], 0)


@pytest.mark.parametrize(
    ("layers", "slices"), [(1, [(0, 1)]), (2, [(0, 1), (1, 1)]), (7, [(0, 3), (3, 3), (6, 1)])]
)
def test_layers_mode_covers_every_layer_once(
    module: Path, layers: int, slices: list[tuple[int, int]]
) -> None:
    host = ScriptedHost(WORDS, [2], layers=layers)
    run(module, host, mode=abi.Mode.LAYERS, max_tokens=1)
    assert host.slices == slices


@pytest.mark.parametrize("mode", MODES)
def test_a_prompt_that_does_not_fit_fails(module: Path, mode: abi.Mode) -> None:
    host = ScriptedHost(WORDS, [2, 3], context_length=5, prompt_tokens=6)
    report, text = run(module, host, mode=mode)
    assert (report.finish, report.error, text) == (abi.Finish.FAILED, abi.ErrorCode.CONTEXT_FULL, "")


@pytest.mark.parametrize("mode", MODES)
def test_a_context_that_fills_up_ends_by_length(module: Path, mode: abi.Mode) -> None:
    host = ScriptedHost(WORDS, [2, 3, 4, 2, 3], context_length=6, prompt_tokens=4)
    report, text = run(module, host, mode=mode)
    assert (report.finish, text) == (
        abi.Finish.LENGTH,
        " Paris is the",
    )  # 4 + 2 in the context, 1 only sampled


@pytest.mark.parametrize("mode", MODES)
def test_a_prompt_that_fills_the_context_gives_one_token(module: Path, mode: abi.Mode) -> None:
    host = ScriptedHost(WORDS, [2, 3], context_length=6, prompt_tokens=6)
    report, text = run(module, host, mode=mode)
    assert (report.finish, text) == (abi.Finish.LENGTH, " Paris")


@pytest.mark.parametrize("mode", MODES)
def test_a_failing_ticket_fails_the_request(module: Path, mode: abi.Mode) -> None:
    host = ScriptedHost(WORDS, [2, 3], fail_forward=1)
    report, _ = run(module, host, mode=mode)
    assert (report.finish, report.error) == (abi.Finish.FAILED, abi.ErrorCode.INTERNAL)


def test_text_before_a_failure_stands(module: Path) -> None:
    host = ScriptedHost(WORDS, [2, 5, 3], fail_forward=3)
    report, text = run(module, host)
    assert (report.finish, text, list(report.tokens)) == (abi.Finish.FAILED, " Paris\ufffd", [2, 5])


@pytest.mark.parametrize("mode", MODES)
def test_cancel_keeps_the_text_so_far(module: Path, mode: abi.Mode) -> None:
    host = ScriptedHost(WORDS, [10] * 50)
    guest, _ = instantiate(module, host)
    handle = guest.start(request(mode=mode, stops=[b"abac"]))
    while handle not in host.text:
        guest.poll(handle)
    guest.cancel(handle)
    assert guest.poll(handle) is abi.Step.DONE
    report = guest.outcome(handle)
    assert report.finish is abi.Finish.CANCELLED
    assert host.text[handle] == "ab" * len(report.tokens)
    assert not host.sessions
    assert not host.tickets
    guest.cancel(handle)
    assert guest.outcome(handle) == report


@pytest.mark.parametrize("mode", MODES)
def test_a_stop_string_across_tokens_ends_the_text(module: Path, mode: abi.Mode) -> None:
    host = ScriptedHost(WORDS, [2, 3, 4, 2, 3, 4])
    report, text = run(module, host, mode=mode, stops=[b"s the P", b"never"])
    assert (report.finish, text, list(report.tokens)) == (abi.Finish.STOP, " Paris i", [2, 3, 4, 2])
    assert host.cancelled == (mode is abi.Mode.WHOLE)


@pytest.mark.parametrize(
    "values",
    [
        {"stops": [b""]},
        {"stops": [b"x"] * 65},
        {"stops": [b"x" * 1025]},
        {"stops": [b"\xff"]},
        {"stops": [b"\xe2\x82"]},
        {"biases": [abi.Bias(1, 0.5)] * 1025},
    ],
)
def test_requests_out_of_range_are_refused(module: Path, values: dict[str, object]) -> None:
    guest, _ = instantiate(module, ScriptedHost(WORDS, []))
    with pytest.raises(abi.InterfaceError, match="invalid-argument"):
        guest.start(request(**values))


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_a_truncated_list_of_stops_is_refused(module: Path, cut: int) -> None:
    guest, _ = instantiate(module, ScriptedHost(WORDS, []))
    whole = request(stops=[b"abc"])
    with pytest.raises(abi.InterfaceError, match="invalid-argument"):
        guest.start(dataclasses.replace(whole, stops=whole.stops[:cut]))


@pytest.mark.parametrize("mode", MODES)
def test_settings_reach_the_host_unchanged(module: Path, mode: abi.Mode) -> None:
    params = abi.Sampling(0.75, 40, 0.5, 0.125, 1.25, -0.5, 2.0, 17, 2**64 - 3, False)
    biases = [abi.Bias(3, -1.5), abi.Bias(2**32 - 1, 4.0)]
    host = ScriptedHost(WORDS, [2])
    run(module, host, mode=mode, params=params, biases=biases)
    assert host.settings == [(params, biases)] * (1 if mode is abi.Mode.WHOLE else 2)


@pytest.mark.parametrize("mode", [abi.Mode.GRANULAR, abi.Mode.LAYERS])
def test_end_tokens_can_be_ignored(module: Path, mode: abi.Mode) -> None:
    host = ScriptedHost(WORDS, [2, 0, 3])
    params = dataclasses.replace(GREEDY, ignore_end=True)
    report, text = run(module, host, mode=mode, params=params, max_tokens=3)
    assert (report.finish, text) == (abi.Finish.LENGTH, " Paris<end> is")


@pytest.mark.parametrize(("prompt", "text"), [(b"", "Paris is"), (b"x", " Paris is")])
def test_a_text_without_prompt_begins_without_the_tokenizers_space(
    module: Path, prompt: bytes, text: str
) -> None:
    assert run(module, ScriptedHost(WORDS, [2, 3]), prompt=prompt)[1] == text


def test_nothing_to_continue_is_an_invalid_argument(module: Path) -> None:
    report, _ = run(module, ScriptedHost(WORDS, [2]), prompt=b"", add_special=False)
    assert (report.finish, report.error) == (abi.Finish.FAILED, abi.ErrorCode.INVALID_ARGUMENT)


def test_an_unknown_model_fails_the_request(module: Path) -> None:
    report, _ = run(module, ScriptedHost(WORDS, []), model=2)
    assert (report.finish, report.error) == (abi.Finish.FAILED, abi.ErrorCode.INVALID_HANDLE)


def test_released_handles_stay_invalid(module: Path) -> None:
    guest, _ = instantiate(module, ScriptedHost(WORDS, [2]))
    first = guest.start(request())
    with pytest.raises(abi.InterfaceError, match="busy"):
        guest.outcome(first)
    guest.release(first)
    second = guest.start(request())
    assert second != first
    for stale in (first, 0, 0xFFFFFFFF):
        with pytest.raises(abi.InterfaceError, match="invalid-handle"):
            guest.poll(stale)
        guest.cancel(stale)
        guest.release(stale)
    assert drive(guest, second).finish is abi.Finish.END


def test_requests_run_side_by_side(module: Path) -> None:
    host = ScriptedHost(WORDS, [2, 3, 4])
    guest, _ = instantiate(module, host)
    handles = [guest.start(request(mode=MODES[n % 3], max_tokens=n % 4)) for n in range(64)]
    with pytest.raises(abi.InterfaceError, match="limit-exceeded"):
        guest.start(request())
    running = set(handles)
    while running:
        running -= {handle for handle in running if guest.poll(handle) is abi.Step.DONE}
    for n, handle in enumerate(handles):
        assert host.text.get(handle, "") == "".join([" Paris", " is", " the"][: n % 4])
        guest.release(handle)
    assert not host.sessions
    assert not host.tickets


def test_poll_tells_when_text_was_emitted(module: Path) -> None:
    host = ScriptedHost(WORDS, [2, 8], delay=1)
    guest, _ = instantiate(module, host)
    handle = guest.start(request())
    steps = [guest.poll(handle) for _ in range(6)]
    pending, output, done = abi.Step.PENDING, abi.Step.OUTPUT, abi.Step.DONE
    assert steps == [pending, output, pending, pending, pending, done]  # token 8 is empty, then comes the end


def test_memory_stays_small_over_many_requests(module: Path) -> None:
    host = ScriptedHost(WORDS, [2, 3, 4] * 30, delay=0)
    guest, memory = instantiate(module, host)
    sizes = []
    for n in range(300):
        prompt = b"x" * (20000 if n == 0 else n * 97 % 20000)
        handle = guest.start(request(prompt=prompt, stops=[b"q" * (n % 100 + 1)]))
        drive(guest, handle)
        guest.release(handle)
        sizes.append(memory.pages)
    assert sizes[-1] == sizes[1]
    assert sizes[-1] <= 4  # the long prompt and its 20001 token ids fill one and a half of them


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    script=st.lists(st.integers(1, len(WORDS) - 1), max_size=20),
    stops=st.lists(st.text(alphabet="ab \ufffd€😀Pris", min_size=1, max_size=5), max_size=3),
    max_tokens=st.integers(0, 22),
)
def test_every_mode_makes_what_python_makes(
    module: Path, script: list[int], stops: list[str], max_tokens: int
) -> None:
    wanted = expected(WORDS, script, stops, max_tokens)
    for mode in MODES:
        host = ScriptedHost(WORDS, script, delay=0)
        encoded = [stop.encode() for stop in stops]
        report, text = run(module, host, mode=mode, stops=encoded, max_tokens=max_tokens)
        assert (report.finish, text, list(report.tokens)) == (wanted.finish, wanted.text, wanted.tokens)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(st.text(alphabet="ab", min_size=1, max_size=4), min_size=1, max_size=12),
    stops=st.lists(st.text(alphabet="ab", min_size=3, max_size=9), min_size=1, max_size=3),
)
@example(pieces=["aabaa", "abaa", "aa"], stops=["aabaaaa"])
def test_stop_strings_that_overlap_themselves(module: Path, pieces: list[str], stops: list[str]) -> None:
    vocabulary = [b"<end>", *(piece.encode() for piece in pieces)]
    script = list(range(1, len(vocabulary)))
    wanted = expected(vocabulary, script, stops, 100)
    host = ScriptedHost(vocabulary, script, delay=0)
    report, text = run(module, host, mode=abi.Mode.WHOLE, stops=[stop.encode() for stop in stops])
    assert (report.finish, text, list(report.tokens)) == (wanted.finish, wanted.text, wanted.tokens)


BORDERS = b"\x00\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0\xc1\xc2\xdf\xe0\xe1\xec\xed\xee\xef\xf0\xf1\xf3\xf4\xf5\xff"


@pytest.mark.parametrize("seed", range(3))
def test_ill_formed_utf8_is_repaired_as_python_does(module: Path, seed: int) -> None:
    """Every three bytes at the borders of the ranges of UTF-8, and some four, cut into tokens anywhere."""
    chance = random.Random(seed)
    parts = [bytes(three) for three in itertools.product(BORDERS, repeat=3)]
    parts += [bytes(chance.choices(BORDERS, k=4)) for _ in range(20000)]
    data = b"".join(part + b"." * chance.randrange(2) for part in parts)
    cuts = sorted(chance.sample(range(len(data)), 300))
    vocabulary = [b"<end>", *(data[a:b] for a, b in itertools.pairwise([0, *cuts, len(data)]))]
    script = list(range(1, len(vocabulary)))
    report, text = run(module, ScriptedHost(vocabulary, script), mode=abi.Mode.WHOLE, max_tokens=1000)
    assert report.finish is abi.Finish.END
    assert text == data.decode("utf-8", "replace")


# ---- the example guest ----


@pytest.fixture(scope="session")
def pick() -> Path:
    return next(path for path in guest_build.build_guests() if path.name == "pick.wasm")


def answers(*texts: bytes) -> bytes:
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def letter_scores(before: list[int], token: int) -> float:
    """A made-up model: b is likelier after a, everything else depends on the letter and the place only."""
    if [*before[-1:], token] == [1000 + ord("a"), 1000 + ord("b")]:
        return -0.25
    return -float(token % 7) - 0.125 * len(before)


@pytest.mark.parametrize("prompt", [b"a", b"some a"])
@pytest.mark.parametrize("texts", [(b"b", b"c", b"bb"), (b"cc", b"d"), (b"b",)])
def test_pick_finds_the_likeliest_answer(pick: Path, prompt: bytes, texts: tuple[bytes, ...]) -> None:
    host = ScriptedHost(WORDS, [], scores=letter_scores)
    guest, _ = instantiate(pick, host)
    handle = guest.start(request(prompt=prompt, extra=answers(*texts), add_special=False))
    report = drive(guest, handle)
    wanted = []
    for text in texts:
        before, total = [1000 + byte for byte in prompt], 0.0
        for byte in text:
            total += letter_scores(before, 1000 + byte)
            before.append(1000 + byte)
        wanted.append(total)
    assert report.finish is abi.Finish.END
    assert list(struct.unpack(f"<{len(texts)}f", report.extra[4:])) == pytest.approx(wanted)
    assert int.from_bytes(report.extra[:4], "little") == wanted.index(max(wanted))
    guest.release(handle)
    assert not host.sessions
    assert not host.tickets


@pytest.mark.parametrize("extra", [b"", b"\x01", answers(b"a")[:-1], answers(b"a", b""), b"\xff" * 8])
def test_pick_refuses_malformed_answers(pick: Path, extra: bytes) -> None:
    host = ScriptedHost(WORDS, [])
    guest, _ = instantiate(pick, host)
    report = drive(guest, guest.start(request(extra=extra)))
    assert (report.finish, report.error) == (abi.Finish.FAILED, abi.ErrorCode.INVALID_ARGUMENT)
    assert not host.sessions
    assert not host.tickets


def test_pick_runs_one_request_at_a_time(pick: Path) -> None:
    host = ScriptedHost(WORDS, [], delay=3)
    guest, _ = instantiate(pick, host)
    handle = guest.start(request(extra=answers(b"a")))
    with pytest.raises(abi.InterfaceError, match="busy"):
        guest.start(request(extra=answers(b"a")))
    guest.release(handle)
    assert not host.sessions
    assert not host.tickets
    assert guest.start(request(extra=answers(b"a"))) != handle
