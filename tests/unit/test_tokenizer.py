"""Tokenizers: naive references on random vocabularies, properties of any text, cost on hostile text.

Real vocabularies are compared with their vendors' tokenizers in test_vectors_tokenizers.py and
test_assets_vocabs.py; broken metadata is in test_tokenizer_metadata.py.
"""

from __future__ import annotations

import random
import re
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit import clib
from tests.unit import gguf_bytes as g
from tests.unit.clib import ADD_SPECIAL, PARSE_SPECIAL, SPECIAL, TEXT_START, Tokenizer

VECTORS = Path(__file__).parents[1] / "vectors"
BPE_NAMES = ["gpt2", "llama-bpe", "qwen2"]
NAMES = [*BPE_NAMES, "spm", "spm-noprefix"]
TABLES = Path(__file__).parents[2] / "core" / "unicode_tables.h"


@pytest.fixture(scope="module", params=NAMES)
def any_tokenizer(request: pytest.FixtureRequest) -> tuple[str, Tokenizer]:
    return request.param, Tokenizer((VECTORS / f"tokenizer-{request.param}.gguf").read_bytes())


@pytest.fixture(scope="module", params=BPE_NAMES)
def bpe(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer((VECTORS / f"tokenizer-{request.param}.gguf").read_bytes())


@pytest.fixture(scope="module")
def spm() -> Tokenizer:
    return Tokenizer((VECTORS / "tokenizer-spm.gguf").read_bytes())


# ---- naive references ----


def naive_merges(parts: list[str], rank_of: dict[str, float]) -> list[str]:
    """Merges the best pair, leftmost first, until none is left: the definition, in quadratic time."""
    while True:
        pairs = [
            (rank_of[a + b], i)
            for i, (a, b) in enumerate(zip(parts, parts[1:], strict=False))
            if a + b in rank_of
        ]
        if not pairs:
            return parts
        best = min(pairs)[1]
        parts[best : best + 2] = [parts[best] + parts[best + 1]]


def random_words(rng: random.Random, letters: str, count: int) -> list[str]:
    """Distinct words of 2 to 6 letters, each the sum of two earlier ones, as training makes them."""
    words = list(letters)
    for _ in range(count):
        word = rng.choice(words) + rng.choice(words)
        if len(word) <= 6 and word not in words:
            words.append(word)
    return words[len(letters) :]


@pytest.mark.parametrize("seed", range(40))
def test_spm_merges_as_defined(seed: int) -> None:
    rng = random.Random(seed)
    letters = "abé▁"
    words = random_words(rng, letters, 40)
    tokens: list[str | bytes] = ["<unk>", *letters, *words]
    scores = [0.0] + [rng.choice([-3.0, -1.5, -0.0, 0.0, 1.0, 2.5]) for _ in tokens[1:]]  # many ties
    data = g.File([*g.spm_values(tokens, scores, [2] + [1] * (len(tokens) - 1))]).build()
    tok = Tokenizer(data)
    rank_of = {str(word): -scores[i] for i, word in enumerate(tokens) if i > len(letters)}
    for _ in range(25):
        text = "".join(rng.choices("abé ", k=rng.randrange(1, 60)))
        expected = naive_merges(list(("▁" + text).replace(" ", "▁")), rank_of)
        assert tok.encode(text) == [tokens.index(part) for part in expected], text


@pytest.mark.parametrize("seed", range(40))
def test_bpe_merges_as_defined(seed: int) -> None:
    rng = random.Random(seed)
    merges: list[tuple[str, str]] = []
    words = list("abcd")
    for _ in range(30):
        pair = (rng.choice(words), rng.choice(words))
        if pair not in merges and len("".join(pair)) <= 8 and "".join(pair) not in words:
            merges.append(pair)
            words.append("".join(pair))
    tokens: list[str | bytes] = [*g.byte_symbols(), *words[4:]]
    tok = Tokenizer(g.File(g.bpe_values(tokens, [f"{a} {b}" for a, b in merges])).build())
    rank = {pair: i for i, pair in enumerate(merges)}
    for _ in range(25):
        text = "".join(rng.choices("abcd", k=rng.randrange(1, 80)))
        parts = list(text)
        while pairs := [(rank[p], i) for i, p in enumerate(zip(parts, parts[1:], strict=False)) if p in rank]:
            best = min(pairs)[1]
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        assert tok.encode(text) == [tokens.index(part) for part in parts], text


# ---- pre-tokenizers against their expressions, over an alphabet whose classes can be written down ----

LETTERS, NUMBERS, SPACES, OTHERS = (
    "aLsStTrReEvVmMlLdDéß你ª",
    "019²٣Ⅷ",
    " \t\n\r\x0b\u00a0\u3000\u2028",
    "'!.,-_€\u0301\u200b😀\x00",
)
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?[{L}]+| ?[{N}]+| ?[^{S}{L}{N}]+|[{S}]+(?![^{S}])|[{S}]+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n{L}{N}]?[{L}]+|[{N}]{1,3}| ?[^{S}{L}{N}]+[\r\n]*|[{S}]*[\r\n]+"
    r"|[{S}]+(?![^{S}])|[{S}]+"
)
REGEXES = {
    "gpt-2": GPT2,
    "llama-bpe": LLAMA3,
    "qwen2": LLAMA3.replace("{1,3}", ""),
}


def pieces(name: str, text: str) -> list[str]:
    ffi, lib = clib.load()
    scanner = lib.pretokenize_find(name.encode(), len(name))
    data, pos, out = text.encode(), 0, []
    held = ffi.from_buffer(data)
    while pos < len(data):
        end = scanner.next(ffi.cast("const char *", held), len(data), pos)
        assert pos < end <= len(data)
        out.append(data[pos:end].decode())
        pos = end
    return out


def expression(name: str) -> re.Pattern[str]:
    """The published expression with its classes spelled out as the alphabet's members."""
    template = REGEXES[name]
    for placeholder, members in (("{L}", LETTERS), ("{N}", NUMBERS), ("{S}", SPACES)):
        template = template.replace(placeholder, re.escape(members))
    return re.compile(template)


def by_expression(name: str, text: str) -> list[str]:
    if name == "smollm":  # single digits are split off before GPT-2's expression runs on what is between
        parts = re.split(f"([{NUMBERS}])", text)
        return [
            piece
            for part in parts
            for piece in ([part] if part in NUMBERS and part else expression("gpt-2").findall(part))
        ]
    return expression(name).findall(text)


@pytest.mark.parametrize("name", [*REGEXES, "smollm"])
@settings(max_examples=600, deadline=None)
@given(text=st.text(st.sampled_from(LETTERS + NUMBERS + SPACES + OTHERS + "'" * 6 + " " * 12), max_size=40))
def test_pretokenizer_equals_its_expression(name: str, text: str) -> None:
    assert pieces(name, text) == by_expression(name, text)


def test_unicode_classes() -> None:
    ffi, lib = clib.load()
    version = re.search(r"Unicode (\S+);", TABLES.read_text(encoding="utf-8"))
    assert version is not None
    same_version = version[1] == unicodedata.unidata_version
    for code in range(0x110000):
        category = unicodedata.category(chr(code))
        space = category[0] == "Z" or chr(code) in "\t\n\x0b\x0c\r\x85"
        expected = 3 if space else {"L": 1, "N": 2}.get(category[0], 0)
        got = lib.unicode_class_of(code)
        if same_version or got != 0:  # another version of Python may know letters the table does not have yet
            assert got == expected, hex(code)


@given(st.binary(min_size=1, max_size=8))
def test_utf8_decoding(data: bytes) -> None:
    ffi, lib = clib.load()
    code = ffi.new("uint32_t *")
    length = lib.unicode_decode(data, len(data), code)
    try:
        first = data[:length].decode()
        assert len(first) == 1 and ord(first) == code[0]
    except UnicodeDecodeError:
        assert (length, code[0]) == (1, 0xFFFFFFFF)
        for n in range(1, 5):  # no well-formed character was missed
            with pytest.raises(UnicodeDecodeError):
                data[:n].decode()


def test_utf8_at_every_border() -> None:
    """All first and second bytes with the smallest and largest continuations."""
    ffi, lib = clib.load()
    code = ffi.new("uint32_t *")
    for first in range(0x80, 0x100):
        for second in range(0x100):
            for rest in (b"\x80\x80", b"\xbf\xbf", b"\x7f\x80", b"\x80\x7f"):
                data = bytes([first, second]) + rest
                good = [n for n in range(1, 5) if is_one_character(data[:n])]
                assert lib.unicode_decode(data, len(data), code) == (good[0] if good else 1), data
                assert (code[0] == 0xFFFFFFFF) == (not good)


def is_one_character(data: bytes) -> bool:
    try:
        return len(data.decode()) == 1
    except UnicodeDecodeError:
        return False


# ---- properties of any text ----


@settings(max_examples=300, deadline=None)
@given(data=st.one_of(st.binary(max_size=200), st.text(max_size=100).map(str.encode)))
def test_byte_level_text_comes_back(bpe: Tokenizer, data: bytes) -> None:
    assert bpe.decode(bpe.encode(data)) == data
    assert bpe.decode(bpe.encode(data, PARSE_SPECIAL), SPECIAL) == data


@settings(max_examples=300, deadline=None)
@given(data=st.one_of(st.binary(max_size=200), st.text(max_size=100).map(str.encode)))
def test_spm_text_comes_back(spm: Tokenizer, data: bytes) -> None:
    assert spm.decode(spm.encode(data), TEXT_START) == data.replace("▁".encode(), b" ")


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=100), flags=st.integers(0, 3))
def test_sizes_are_exact_and_caps_are_kept(
    any_tokenizer: tuple[str, Tokenizer], data: bytes, flags: int
) -> None:
    ffi, lib = clib.load()
    tok = any_tokenizer[1]
    ids = tok.encode(data, flags)
    buffer, count = ffi.new("uint32_t[4]", [7, 7, 7, 7]), ffi.new("size_t *")
    assert lib.tokenizer_encode(tok.handle, data, len(data), flags, buffer, 3, count, ffi.NULL) == 0
    assert count[0] == len(ids) and list(buffer) == (ids[:3] + [7, 7, 7])[:3] + [7]
    text = tok.decode(ids, SPECIAL | TEXT_START)
    out, size = ffi.new("char[4]", b"\7\7\7\7"), ffi.new("size_t *")
    assert lib.tokenizer_decode(tok.handle, ids, len(ids), SPECIAL | TEXT_START, out, 3, size, ffi.NULL) == 0
    assert size[0] == len(text) and bytes(ffi.buffer(out)) == (text[:3] + b"\7\7\7")[:3] + b"\7"


def test_plain_text_never_becomes_control_tokens(any_tokenizer: tuple[str, Tokenizer]) -> None:
    tok = any_tokenizer[1]
    for text in (
        "<s>",
        "</s>",
        "<unk>",
        "<|endoftext|>",
        "<|im_start|>x<|im_end|>",
        "<|begin_of_text|><|eot_id|>",
    ):
        ids = tok.encode(text)
        assert tok.decode(ids, TEXT_START).decode() == text  # control tokens would be hidden


def test_ids_outside_the_vocabulary_are_refused(any_tokenizer: tuple[str, Tokenizer]) -> None:
    tok = any_tokenizer[1]
    size = clib.load()[1].tokenizer_vocab_size(tok.handle)
    for bad in (size, 0xFFFFFFFF):
        with pytest.raises(clib.CoreError, match="outside the vocabulary") as refused:
            tok.decode([0, bad])
        assert refused.value.code == "invalid-argument"


# ---- special tokens ----


def special_tokenizer() -> tuple[Tokenizer, list[str | bytes]]:
    extra: list[str | bytes] = ["<a>", "<a><b>", "<|im_end|>", "<user>", "  ", "<" + "long" * 100 + ">"]
    tokens = [*g.byte_symbols(), *extra]
    kinds = [g.NORMAL] * 256 + [g.CONTROL] * 3 + [g.USER] * 2 + [g.CONTROL]
    return Tokenizer(g.File(g.bpe_values(tokens, [], kinds)).build()), tokens


def test_longest_special_wins_and_plain_text_stays_plain() -> None:
    tok, tokens = special_tokenizer()
    a, ab, end, user, spaces = (tokens.index(t) for t in ("<a>", "<a><b>", "<|im_end|>", "<user>", "  "))
    assert tok.encode("<a><b><a><<|im_end|>", PARSE_SPECIAL) == [ab, a, ord("<"), end]
    assert tok.encode("<a>") == [ord(c) for c in "<a>"]
    assert tok.encode("<user>   ") == [
        user,
        spaces,
        tokens.index("Ġ"),
    ]  # user-defined tokens are always found
    assert tok.encode("<" + "long" * 100 + ">", PARSE_SPECIAL)[0] == ord("<")  # too long to be searched


def test_text_after_a_special_gets_the_space_again() -> None:
    tokens: list[str | bytes] = ["<unk>", "<s>", "▁", "a", "▁a", "<u>"]
    kinds = [g.UNKNOWN, g.CONTROL, g.NORMAL, g.NORMAL, g.NORMAL, g.USER]
    tok = Tokenizer(g.File(g.spm_values(tokens, [0.0] * 6, kinds)).build())
    assert tok.encode("aa<s>a<u>aa", PARSE_SPECIAL) == [4, 3, 1, 4, 5, 4, 3]
    assert tok.encode("<s>", PARSE_SPECIAL) == [1]


def test_control_tokens_are_hidden_unless_asked_for() -> None:
    tok, tokens = special_tokenizer()
    ids = [tokens.index("<a>"), ord("!"), tokens.index("<user>")]
    assert (tok.decode(ids), tok.decode(ids, SPECIAL)) == (b"!<user>", b"<a>!<user>")
    assert tok.ends() == [tokens.index("<|im_end|>")]


def test_text_start_undoes_the_space_put_before_the_text(spm: Tokenizer) -> None:
    ids = spm.encode("Hello", ADD_SPECIAL)
    assert (spm.decode(ids), spm.decode(ids, TEXT_START)) == (b" Hello", b"Hello")
    assert spm.decode(spm.encode(" Hello"), TEXT_START) == b" Hello"


# ---- cost of hostile text ----

HOSTILE = [
    "a",
    " ",
    "\n",
    "é",
    "你",
    "\u0301",
    "1",
    "'",
    "<",
    "\x00",
    b"\xff",
    b"\xe2\x96",
    " a",
    "a1",
    "'s",
    "\r\n ",
    "▁",
]


@pytest.mark.parametrize("unit", HOSTILE, ids=ascii)
def test_hostile_text_takes_linear_time(any_tokenizer: tuple[str, Tokenizer], unit: str | bytes) -> None:
    data = unit if isinstance(unit, bytes) else unit.encode()
    data *= 300_000 // len(data)
    start = time.monotonic()
    ids = any_tokenizer[1].encode(data)
    assert time.monotonic() - start < 10  # quadratic work would take hours
    assert len(ids) <= len(data) + 1


@pytest.mark.parametrize("name", ["gpt2", "spm"])
def test_ten_megabytes_of_one_character(name: str) -> None:
    tok = Tokenizer((VECTORS / f"tokenizer-{name}.gguf").read_bytes())
    start = time.monotonic()
    assert tok.encode("a" * 10_000_000)
    assert time.monotonic() - start < 120


def test_vocabulary_made_to_be_slow_is_bounded() -> None:
    """Every a^k is a token, longer ones merge first: the longest chains a file of this size can ask for."""
    tokens: list[str | bytes] = ["<unk>", *("a" * k for k in range(1, 1500))]
    data = g.File(g.spm_values(tokens, [float(k) for k in range(1500)])).build()
    tok = Tokenizer(data)
    start = time.monotonic()
    assert len(tok.encode("a" * 100_000)) <= 100_001
    assert time.monotonic() - start < 30
