"""Tokenizer metadata that lies: typed errors where it cannot work, plain sense where it can; no memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit import clib
from tests.unit import gguf_bytes as g
from tests.unit.clib import ADD_SPECIAL, NONE, PARSE_SPECIAL, SPECIAL, Tokenizer

SPM: list[str | bytes] = ["<unk>", "<s>", "</s>", "▁", "a", "b", "ab"]
SPM_SCORES = [0.0] * len(SPM)
BPE: list[str | bytes] = [*g.byte_symbols(), "ab", "abc"]
T = "tokenizer.ggml."


def spm_file(
    *more: bytes, tokens: list[str | bytes] | None = None, scores: list[float] | None = None
) -> bytes:
    used = SPM if tokens is None else tokens
    return g.File([*g.spm_values(used, [0.0] * len(used) if scores is None else scores), *more]).build()


def bpe_file(
    *more: bytes, merges: list[str | bytes] | None = None, tokens: list[str | bytes] | None = None
) -> bytes:
    return g.File(
        [*g.bpe_values(tokens or BPE, ["a b", "ab c"] if merges is None else merges), *more]
    ).build()


def values_file(*values: bytes) -> bytes:
    return g.File(list(values)).build()


LLAMA = g.scalar(T + "model", g.STRING, "llama")
GPT2 = g.scalar(T + "model", g.STRING, "gpt2")
PRE = g.scalar(T + "pre", g.STRING, "gpt-2")
TOKENS = g.array(T + "tokens", g.STRING, SPM)
SCORES = g.array(T + "scores", g.F32, SPM_SCORES)
TOO_MANY = (
    g.text(T + "tokens")
    + g.u32(g.ARRAY)
    + g.u32(g.STRING)
    + g.u64((4 << 20) + 1)
    + bytes(8 * ((4 << 20) + 1))
)

INVALID, UNSUPPORTED = "invalid-tokenizer", "unsupported-tokenizer"
BPE_TOKENS = g.array(T + "tokens", g.STRING, BPE)

BROKEN: dict[str, tuple[bytes, str]] = {
    "no tokenizer": (values_file(), INVALID),
    "model is a number": (values_file(g.scalar(T + "model", g.U32, 1)), "invalid-model"),
    "unknown model": (values_file(g.scalar(T + "model", g.STRING, "bert"), TOKENS, SCORES), UNSUPPORTED),
    "no pre-tokenizer": (values_file(GPT2, TOKENS), UNSUPPORTED),
    "unknown pre-tokenizer": (values_file(GPT2, g.scalar(T + "pre", g.STRING, "no"), TOKENS), UNSUPPORTED),
    "tokens missing": (values_file(LLAMA, SCORES), INVALID),
    "tokens empty": (values_file(LLAMA, g.array(T + "tokens", g.STRING, []), SCORES), INVALID),
    "tokens are numbers": (values_file(LLAMA, g.array(T + "tokens", g.U8, [1] * 7), SCORES), INVALID),
    "tokens is a string": (values_file(LLAMA, g.scalar(T + "tokens", g.STRING, "a"), SCORES), INVALID),
    "more than 4 Mi tokens": (values_file(LLAMA, TOO_MANY), INVALID),
    "scores missing": (values_file(LLAMA, TOKENS), INVALID),
    "scores too short": (spm_file(scores=[0.0] * 6), INVALID),
    "scores too long": (spm_file(scores=[0.0] * 8), INVALID),
    "scores of u8": (values_file(LLAMA, TOKENS, g.array(T + "scores", g.U8, [0] * 7)), INVALID),
    "scores of f64": (values_file(LLAMA, TOKENS, g.array(T + "scores", g.F64, SPM_SCORES)), INVALID),
    "score NaN": (spm_file(scores=[0.0] * 6 + [float("nan")]), INVALID),
    "types too short": (spm_file(g.array(T + "token_type", g.I32, [1])), INVALID),
    "types of f32": (spm_file(g.array(T + "token_type", g.F32, [1.0] * 7)), INVALID),
    "types of u8": (spm_file(g.array(T + "token_type", g.U8, [1] * 7)), INVALID),
    "bos is a string": (spm_file(g.scalar(T + "bos_token_id", g.STRING, "1")), "invalid-model"),
    "add_bos is a number": (spm_file(g.scalar(T + "add_bos_token", g.U32, 1)), "invalid-model"),
    "add_bos without BOS": (
        spm_file(g.scalar(T + "bos_token_id", g.U32, NONE), g.scalar(T + "add_bos_token", g.BOOL, 1)),
        INVALID,
    ),
    "add_eos without EOS": (bpe_file(g.scalar(T + "add_eos_token", g.BOOL, 1)), INVALID),
    "merges missing": (values_file(GPT2, PRE, BPE_TOKENS), INVALID),
    "merges are numbers": (
        values_file(GPT2, PRE, BPE_TOKENS, g.array(T + "merges", g.U32, [1])),
        INVALID,
    ),
    "merge without a space": (bpe_file(merges=["a b", "ab"]), INVALID),
    "merge with an empty left side": (bpe_file(merges=[" b"]), INVALID),
    "merge with an empty right side": (bpe_file(merges=["a "]), INVALID),
    "merge empty": (bpe_file(merges=[""]), INVALID),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_metadata_is_refused(name: str) -> None:
    data, code = BROKEN[name]
    with pytest.raises(clib.CoreError) as refused:
        Tokenizer(data)
    assert refused.value.code == code


def test_broken_metadata_under_sanitizers(tmp_path: Path) -> None:
    clib.replay("gguf", tmp_path, (data for data, _ in BROKEN.values() if data))


# ---- odd, but it works ----


@pytest.mark.parametrize(
    ("kind", "value"),
    [(g.U32, 7), (g.U32, NONE), (g.I32, -1), (g.I64, -1), (g.U64, 1 << 20), (g.U32, 1_000_000)],
)
@pytest.mark.parametrize("which", ["bos", "eos", "unknown", "eot"])
def test_ids_outside_the_vocabulary_mean_none(which: str, kind: int, value: int) -> None:
    lib = clib.load()[1]
    tok = Tokenizer(spm_file(g.scalar(f"{T}{which}_token_id", kind, value)))
    if which == "bos":
        assert lib.tokenizer_bos(tok.handle) == NONE and not lib.tokenizer_add_bos(tok.handle)
        assert tok.encode("a", ADD_SPECIAL) == tok.encode("a")
    elif which == "eos":
        assert lib.tokenizer_eos(tok.handle) == NONE
        assert tok.ends() == [2]  # "</s>" ends a generation by its text


def test_family_defaults_do_not_leave_a_tiny_vocabulary() -> None:
    lib = clib.load()[1]
    tok = Tokenizer(spm_file(tokens=["a"]))
    assert [lib.tokenizer_bos(tok.handle), lib.tokenizer_eos(tok.handle)] == [NONE, NONE]
    assert not lib.tokenizer_add_bos(tok.handle)
    assert tok.encode("b", ADD_SPECIAL) == [0, 0] or tok.encode("b", ADD_SPECIAL) == [
        0
    ]  # token 0 is the family's unknown


def test_add_bos_default_of_a_bpe_without_bos_is_quiet() -> None:
    values = g.bpe_values(BPE, [], pre="llama-bpe")  # this kind adds BOS unless told otherwise
    tok = Tokenizer(g.File(values).build())
    assert tok.encode("a", ADD_SPECIAL) == [BPE.index("a")]


def test_duplicate_tokens_load_and_the_lowest_id_wins() -> None:
    tok = Tokenizer(bpe_file(tokens=[*BPE, "ab", "a"]))
    assert tok.encode("ab") == [256]
    assert tok.decode([256, 258, 259]) == b"ababa"


def test_merges_of_unknown_tokens_are_ignored() -> None:
    tok = Tokenizer(bpe_file(merges=["x y", "a q", "a b", "a b", "zz zz", "ab \u0400", "ab c"]))
    assert tok.encode("abc xy") == [257, BPE.index("Ġ"), BPE.index("x"), BPE.index("y")]


def test_a_repeated_merge_keeps_its_first_rank() -> None:
    tokens: list[str | bytes] = [*g.byte_symbols(), "ab", "bc"]
    assert Tokenizer(bpe_file(tokens=tokens, merges=["a b", "b c", "a b"])).encode("abc") == [256, ord("c")]
    assert Tokenizer(bpe_file(tokens=tokens, merges=["b c", "a b", "b c"])).encode("abc") == [ord("a"), 257]


@pytest.mark.parametrize(
    ("pre", "whole"), [("llama-bpe", True), ("gpt-2", False), ("qwen2", False), ("dbrx", False)]
)
def test_pieces_that_are_tokens_skip_the_merges_where_the_family_says_so(pre: str, whole: bool) -> None:
    tok = Tokenizer(g.File(g.bpe_values([*g.byte_symbols(), "ab", "Ġabc"], ["a b"], pre=pre)).build())
    assert tok.encode(" abc") == ([257] if whole else [ord(" "), 256, ord("c")])


def test_cyclic_merges_end() -> None:
    tokens: list[str | bytes] = [*BPE, "aa", "aaa", "ba"]
    tok = Tokenizer(bpe_file(tokens=tokens, merges=["a b", "b a", "ab a", "a ba", "a a", "aa a", "a aa"]))
    assert tok.decode(tok.encode("abababaaa" * 50)) == b"abababaaa" * 50


def test_empty_and_giant_tokens() -> None:
    giant = "g" * 1_000_000
    tok = Tokenizer(spm_file(tokens=[*SPM, "", giant]))
    assert tok.decode([len(SPM)]) == b""
    assert tok.decode([len(SPM) + 1]) == giant.encode()
    assert tok.encode("ab")[-1] == SPM.index("ab")


def test_tokens_of_any_bytes_decode_to_themselves() -> None:
    odd: list[str | bytes] = [b"\xff\xfe", b"\0", "\u0400", "a b", b"\xe2\x96"]
    for data in (spm_file(tokens=[*SPM, *odd]), bpe_file(tokens=[*BPE, *odd])):
        tok = Tokenizer(data)
        first = clib.load()[1].tokenizer_vocab_size(tok.handle) - len(odd)
        assert tok.decode(list(range(first, first + len(odd)))) == b"\xff\xfe\0\xd0\x80a b\xe2\x96"


def test_unknown_characters_become_unk_or_an_error() -> None:
    kinds = [g.UNKNOWN, g.CONTROL, g.CONTROL, *[g.NORMAL] * 4]
    typed = g.array(T + "token_type", g.I32, kinds)
    tok = Tokenizer(spm_file(typed))
    space, a = SPM.index("▁"), SPM.index("a")
    assert tok.encode("a\n?\xffa") == [space, a, 0, a]  # one for a run of unknown characters
    assert tok.encode(b"\xff") == [space, 0]
    assert tok.encode("??a??") == [space, 0, a, 0]
    assert tok.decode([0], SPECIAL) == b"<unk>" and tok.decode([0]) == b""
    tok = Tokenizer(spm_file(typed, g.scalar(T + "unknown_token_id", g.U32, NONE)))
    with pytest.raises(clib.CoreError) as refused:
        tok.encode("a\n")
    assert refused.value.code == "invalid-argument"


def test_byte_tokens_without_types() -> None:
    tokens: list[str | bytes] = [*SPM, *(f"<0x{byte:02X}>" for byte in range(256))]
    tok = Tokenizer(spm_file(tokens=tokens))
    assert tok.encode("a\u00e9") == [3, 4, len(SPM) + 0xC3, len(SPM) + 0xA9]
    assert tok.decode([len(SPM) + 0xC3, len(SPM) + 0xA9]).decode() == "é"
    literal = tok.encode("<0x41>")
    assert len(literal) == 7  # text that looks like a byte token is only text


@pytest.mark.parametrize("kind", [0, 7, -1, 2**31 - 1])
def test_unknown_token_types(kind: int) -> None:
    tok = Tokenizer(spm_file(g.array(T + "token_type", g.I32, [2, 3, 3, 1, 1, kind, 1])))
    assert tok.encode("ab")[-1] == SPM.index("ab")


@pytest.mark.parametrize(
    ("texts", "eot", "ends"),
    [
        (["<|im_end|>", "<|endoftext|>"], 0, [0, 1]), (["<|endoftext|>", "<|im_end|>"], 1, [0, 1]),
        (["<|end_of_text|>", "<|eot_id|>", "<|eom_id|>"], 1, [0, 1, 2]), (["<end_of_turn>", "x"], 0, [0]),
        (["<end of turn>", "<|im_end|"], NONE, []),
    ],
)  # fmt: skip
def test_ends_of_generation_by_text(texts: list[str], eot: int, ends: list[int]) -> None:
    tok = Tokenizer(bpe_file(tokens=[*BPE, *texts]))
    got = clib.load()[1].tokenizer_eot(tok.handle)
    assert (got - len(BPE) if got != NONE else got) == eot
    assert tok.ends() == [len(BPE) + i for i in ends]
    if ends:  # whatever the file calls them, they are control tokens
        assert tok.encode(texts[ends[0]], PARSE_SPECIAL) == [len(BPE) + ends[0]]
        assert tok.encode(texts[ends[0]]) != [len(BPE) + ends[0]]


@pytest.mark.parametrize("key", ["eos", "eot", "eom", "fim_pad"])
def test_ends_of_generation_by_id(key: str) -> None:
    assert Tokenizer(bpe_file(g.scalar(f"{T}{key}_token_id", g.U32, 7))).ends() == [7]


@pytest.mark.parametrize("flag", [0, 1])
def test_space_prefix_as_the_file_says(flag: int) -> None:
    tok = Tokenizer(spm_file(g.scalar(T + "add_space_prefix", g.BOOL, flag)))
    assert tok.encode("ab") == [SPM.index("▁")] * flag + [SPM.index("ab")]


@pytest.mark.parametrize(
    ("name", "cleaned"), [("gpt-2", True), ("llama-bpe", True), ("qwen2", False), ("smollm", False)]
)
def test_whole_texts_are_cleaned_where_the_family_does(name: str, cleaned: bool) -> None:
    tok = Tokenizer(g.File(g.bpe_values(BPE, [], pre=name)).build())
    text = "a , b . c ! d ? it 's I 'm we 're you 've x ' y don 't ll 'll"
    ids = tok.encode(text)
    assert tok.decode(ids).decode() == text  # pieces of a stream are never cleaned
    expected = "a, b. c! d? it's I'm we're you've x'y don 't ll 'll"
    assert tok.decode(ids, clib.TEXT_START).decode() == (expected if cleaned else text)


# ---- out of memory ----


def test_every_failed_allocation_is_typed_and_leaks_nothing(tmp_path: Path) -> None:
    """A C program under sanitizers lets the nth allocation fail, for every n, from open to decode."""
    files: dict[str, Any] = {
        "spm": spm_file(),
        "bpe": bpe_file(),
        "tensors": g.File(tensors=[g.tensor("t", [8], 0, 0)], data=bytes(32)).build(),
    }
    driver = Path(__file__).with_name("out_of_memory.c")
    flags = ("-Dmalloc=failing_malloc", "-Dcalloc=failing_calloc", "-Drealloc=failing_realloc")
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        done = clib.run_program(driver, flags=flags, arguments=[str(tmp_path / name)])
        assert done.returncode == 0, done.stdout + done.stderr
        assert int(done.stdout) > 5  # allocations that were made to fail
