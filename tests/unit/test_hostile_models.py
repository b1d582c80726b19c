"""Models that lie about sizes, shapes, types and weights, and callers that pass nonsense.

Each must end in its typed error, naming the key or the tensor, at once; nothing may stay loaded, and a good
model must load and answer right afterwards.
"""

from __future__ import annotations

import gc
import math
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from realm import Realm, RealmError

from tests.unit import gguf_bytes as g
from tests.unit.gguf_edit import VECTORS, Edited, Tensor, edit

LLAMA, QWEN, GEMMA = "model-llama3.gguf", "model-qwen2.gguf", "model-gemma2.gguf"
LOAD_SECONDS = 5.0  # generous for a busy machine; a load takes a millisecond
NAN, INF = float("nan"), float("inf")

Lie = Callable[[Edited], None]


@pytest.fixture(scope="module")
def realm() -> Iterator[Realm]:
    with Realm(threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def expected(realm: Realm) -> tuple[int, ...]:
    """What the good model answers before any bad one was tried."""
    return answer(realm)


def answer(realm: Realm) -> tuple[int, ...]:
    model = realm.load_model(VECTORS / LLAMA)
    try:
        return realm.generate("The capital", max_tokens=4, temperature=0, ignore_end=True, model=model).tokens
    finally:
        realm.unload_model(model)


def refusal(realm: Realm, path: Path, lied: bytes) -> RealmError:
    """The error that loading ends in, quickly, with nothing left behind."""
    path.write_bytes(lied)
    start = time.monotonic()
    with pytest.raises(RealmError) as caught:
        realm.unload_model(realm.load_model(path))
    assert time.monotonic() - start < LOAD_SECONDS
    assert not realm._models and not realm._engine.models._models
    assert "\n" not in caught.value.message
    return caught.value


def check(realm: Realm, tmp_path: Path, name: str, lie: Lie, code: str, *named: str) -> None:
    file = edit(name)
    lie(file)
    error = refusal(realm, tmp_path / "lie.gguf", file.build())
    assert error.code == code, error
    for word in named:
        assert word in error.message


def sets(key: str, kind: int, value: float) -> Lie:
    return lambda file: file.set(key, kind, value)


def sets_array(key: str, values: list[int]) -> Lie:
    return lambda file: file.set_array(key, g.I32, values)


def drops(name: str) -> Lie:
    return lambda file: file.tensors.__delitem__(name)


def puts(name: str, tensor: Tensor) -> Lie:
    return lambda file: file.tensors.__setitem__(name, tensor)


def calls_itself(architecture: str) -> Lie:
    written = g.scalar("general.architecture", g.STRING, architecture)
    return lambda file: file.values.__setitem__("general.architecture", written)


# ---- hyper-parameters ----

# what follows "<architecture>.", its type, the lie, the code, what the message must name
INVALID, UNSUPPORTED = "invalid-model", "unsupported-architecture"
NUMBERS: dict[str, tuple[str, int, float, str, str]] = {
    "no layers": ("block_count", g.U32, 0, INVALID, "block_count"),
    "a thousand million layers": ("block_count", g.U32, 10**9, INVALID, "block_count"),
    "more layers than tensors": ("block_count", g.U32, 3, INVALID, "blk.2.attn_norm.weight"),
    "fewer layers than tensors": ("block_count", g.U32, 1, INVALID, "blk.1."),
    "negative layers": ("block_count", g.I32, -1, INVALID, "block_count"),
    "layers as a float": ("block_count", g.F32, 2.0, INVALID, "block_count"),
    "layers past 32 bits": ("block_count", g.U64, 2**32 + 2, INVALID, "block_count"),
    "no heads": ("attention.head_count", g.U32, 0, INVALID, "attention.head_count"),
    "too many heads": ("attention.head_count", g.U32, 2**31, INVALID, "attention.head_count"),
    "no key/value heads": ("attention.head_count_kv", g.U32, 0, INVALID, "attention.head_count_kv"),
    "more key/value heads than heads": ("attention.head_count_kv", g.U32, 8, INVALID, "8 key/value heads"),
    "key/value heads that do not divide": ("attention.head_count_kv", g.U32, 3, INVALID, "3 key/value heads"),
    "other heads than the tensors": ("attention.head_count", g.U32, 8, INVALID, "attn_q.weight"),
    "no context": ("context_length", g.U32, 0, INVALID, "context_length"),
    "a context of 2^32 - 1": ("context_length", g.U32, 2**32 - 1, INVALID, "context_length"),
    "a context past 32 bits": ("context_length", g.U64, 2**32, INVALID, "context_length"),
    "no width": ("embedding_length", g.U32, 0, INVALID, "embedding_length"),
    "a width past 32 bits": ("embedding_length", g.U64, 2**32 + 32, INVALID, "embedding_length"),
    "another width than the tensors": ("embedding_length", g.U32, 64, INVALID, "token_embd.weight"),
    "no feed-forward": ("feed_forward_length", g.U32, 0, INVALID, "feed_forward_length"),
    "another feed-forward": ("feed_forward_length", g.U32, 47, INVALID, "ffn_gate.weight"),
    "an odd head size": ("attention.key_length", g.U32, 7, INVALID, "key_length is 7"),
    "a huge head size": ("attention.key_length", g.U32, 2**30, INVALID, "attention.key_length"),
    "a head size of 2^32 - 1": ("attention.key_length", g.U32, 2**32 - 1, INVALID, "attention.key_length"),
    "keys wider than values": ("attention.key_length", g.U32, 16, INVALID, "value_length 8"),
    "rope wider than the head": ("rope.dimension_count", g.U32, 10, INVALID, "rope.dimension_count"),
    "rope of 0": ("rope.dimension_count", g.U32, 0, INVALID, "rope.dimension_count"),
    "rope of an odd size": ("rope.dimension_count", g.U32, 7, INVALID, "rope.dimension_count"),
    "rope base 0": ("rope.freq_base", g.F32, 0.0, INVALID, "rope.freq_base"),
    "rope base negative": ("rope.freq_base", g.F32, -1e4, INVALID, "rope.freq_base"),
    "rope base NaN": ("rope.freq_base", g.F32, NAN, INVALID, "rope.freq_base"),
    "rope base infinite": ("rope.freq_base", g.F32, INF, INVALID, "rope.freq_base"),
    "rope base past f32": ("rope.freq_base", g.F64, 1e300, INVALID, "rope.freq_base"),
    "rope base denormal": ("rope.freq_base", g.F64, 1e-300, INVALID, "rope.freq_base"),
    "epsilon NaN": ("attention.layer_norm_rms_epsilon", g.F32, NAN, INVALID, "layer_norm_rms_epsilon"),
    "epsilon negative": ("attention.layer_norm_rms_epsilon", g.F32, -1e-5, INVALID, "layer_norm_rms_epsilon"),
    "epsilon infinite": ("attention.layer_norm_rms_epsilon", g.F32, INF, INVALID, "layer_norm_rms_epsilon"),
    "experts": ("expert_count", g.U32, 8, UNSUPPORTED, "expert_count"),
    "rope scale 0": ("rope.scale_linear", g.F32, 0.0, INVALID, "rope.scal"),
    "rope scale negative": ("rope.scale_linear", g.F32, -4.0, INVALID, "rope.scal"),
    "rope scale NaN": ("rope.scale_linear", g.F32, NAN, INVALID, "rope.scal"),
}


@pytest.mark.parametrize("what", NUMBERS)
def test_a_number_that_does_not_fit(realm: Realm, tmp_path: Path, what: str) -> None:
    key, kind, value, code, named = NUMBERS[what]
    check(realm, tmp_path, LLAMA, sets(f"llama.{key}", kind, value), code, named)


@pytest.mark.parametrize(
    ("key", "value"),
    [("attn_logit_softcapping", -1.0), ("attn_logit_softcapping", NAN), ("final_logit_softcapping", -INF)],
)
def test_a_soft_cap_that_is_none(realm: Realm, tmp_path: Path, key: str, value: float) -> None:
    check(realm, tmp_path, GEMMA, sets(f"gemma2.{key}", g.F32, value), INVALID, key)


@pytest.mark.parametrize(
    "key", ["block_count", "embedding_length", "feed_forward_length", "attention.head_count"]
)
def test_a_key_that_is_missing(realm: Realm, tmp_path: Path, key: str) -> None:
    check(realm, tmp_path, LLAMA, lambda file: file.remove(f"llama.{key}"), INVALID, key, "missing")


@pytest.mark.parametrize("key", ["attention.head_count", "attention.head_count_kv", "feed_forward_length"])
def test_sizes_that_differ_by_layer_are_refused(realm: Realm, tmp_path: Path, key: str) -> None:
    check(realm, tmp_path, LLAMA, sets_array(f"llama.{key}", [4, 4]), INVALID, key)


def test_an_unknown_rope_scaling(realm: Realm, tmp_path: Path) -> None:
    def lie(file: Edited) -> None:
        file.values["llama.rope.scaling.type"] = g.scalar("llama.rope.scaling.type", g.STRING, "yarn")

    check(realm, tmp_path, LLAMA, lie, UNSUPPORTED, "yarn")


@pytest.mark.parametrize("name", ["", "gpt9000", "llama\x00", "LLAMA", "x" * 10_000, "\n\x1b[31m"])
def test_an_unknown_architecture(realm: Realm, tmp_path: Path, name: str) -> None:
    check(realm, tmp_path, LLAMA, calls_itself(name), UNSUPPORTED, "architecture", "llama")


def test_one_part_of_a_split_model(realm: Realm, tmp_path: Path) -> None:
    def splits(file: Edited) -> None:
        file.set("split.no", g.U16, 1)
        file.set("split.count", g.U16, 3)
        del file.tensors["token_embd.weight"]

    check(realm, tmp_path, LLAMA, splits, "unsupported", "3 parts", "merge")
    check(realm, tmp_path, LLAMA, sets("split.count", g.F32, 2.0), INVALID, "split.count")


def test_no_architecture(realm: Realm, tmp_path: Path) -> None:
    check(
        realm, tmp_path, LLAMA, lambda file: file.remove("general.architecture"), UNSUPPORTED, "architecture"
    )
    check(realm, tmp_path, LLAMA, sets("general.architecture", g.U32, 1), INVALID, "general.architecture")


def test_a_model_under_another_architecture_s_name(realm: Realm, tmp_path: Path) -> None:
    """Its keys begin with the other name, so none of them is found."""
    check(realm, tmp_path, LLAMA, calls_itself("qwen2"), INVALID, "qwen2.block_count")


@pytest.mark.parametrize("alignment", [0, 13, 1 << 21, 1 << 30, (1 << 32) - 1])
def test_a_hostile_alignment(realm: Realm, tmp_path: Path, alignment: int) -> None:
    check(
        realm,
        tmp_path,
        LLAMA,
        sets("general.alignment", g.U32, alignment),
        "invalid-gguf",
        "general.alignment",
    )


def test_a_large_alignment_that_the_file_keeps_loads(realm: Realm, tmp_path: Path) -> None:
    file = edit(LLAMA)
    file.set("general.alignment", g.U32, 4096)
    (tmp_path / "aligned.gguf").write_bytes(file.build(alignment=4096))
    realm.unload_model(realm.load_model(tmp_path / "aligned.gguf"))


# ---- tensors ----


def tensor_names(name: str) -> list[str]:
    return [
        tensor
        for tensor in edit(name).tensors
        if not tensor.startswith("blk.1") and tensor != "rope_freqs.weight"
    ]


EVERY_TENSOR = [(name, tensor) for name in (LLAMA, QWEN, GEMMA) for tensor in tensor_names(name)]


@pytest.mark.parametrize(("name", "tensor"), EVERY_TENSOR)
def test_every_tensor_of_a_wrong_shape(realm: Realm, tmp_path: Path, name: str, tensor: str) -> None:
    """A row or column more or less, the two swapped, or a dimension more: with the data that fits the lie."""
    right = edit(name).tensors[tensor].dims
    lies = [[right[0] + 1, *right[1:]], [right[0] - 1, *right[1:]], [*right, 2]]
    if len(right) == 2:
        lies += [[right[0], right[1] + 1], [right[0], right[1] - 1], [1, right[0] * right[1]]]
        lies += [right[::-1]] if right[0] != right[1] else []
    for dims in lies:
        file = edit(name)
        file.tensors[tensor] = Tensor(dims, 0, bytes(4 * math.prod(dims)))
        error = refusal(realm, tmp_path / "lie.gguf", file.build())
        assert error.code == INVALID and f'"{tensor}"' in error.message, (dims, error)


@pytest.mark.parametrize(("name", "tensor"), [pair for pair in EVERY_TENSOR if not pair[1].endswith(".bias")])
def test_every_tensor_that_is_missing(realm: Realm, tmp_path: Path, name: str, tensor: str) -> None:
    check(realm, tmp_path, name, drops(tensor), INVALID, f'"{tensor}"', "missing")


@pytest.mark.parametrize(
    "extra", ["blk.0.attn_q_norm.weight", "blk.0.ffn_gate_exps.weight", "blk.2.attn_q.weight", "x"]
)
def test_a_tensor_too_many(realm: Realm, tmp_path: Path, extra: str) -> None:
    lie = puts(extra, Tensor([8], 0, bytes(32)))
    check(realm, tmp_path, LLAMA, lie, INVALID, f'"{extra}"')


@pytest.mark.parametrize(("kind", "size"), [(8, 34), (1, 64), (30, 64)])
@pytest.mark.parametrize("tensor", ["blk.0.attn_norm.weight", "output_norm.weight", "blk.0.attn_q.bias"])
def test_a_quantized_norm_or_bias(realm: Realm, tmp_path: Path, tensor: str, kind: int, size: int) -> None:
    lie = puts(tensor, Tensor([32], kind, bytes(size)))
    check(realm, tmp_path, QWEN, lie, INVALID, f'"{tensor}"', "F32")


# ggml's names, ids and block sizes, from its file format's description
KNOWN_TYPES = {
    "Q4_1": (3, 32, 20), "Q5_0": (6, 32, 22), "Q5_1": (7, 32, 24), "Q8_1": (9, 32, 36), "Q2_K": (10, 256, 84),
    "Q3_K": (11, 256, 110), "Q8_K": (15, 256, 292), "IQ2_XXS": (16, 256, 66), "IQ2_XS": (17, 256, 74),
    "IQ3_XXS": (18, 256, 98), "IQ1_S": (19, 256, 50), "IQ4_NL": (20, 32, 18), "IQ3_S": (21, 256, 110),
    "IQ2_S": (22, 256, 82), "IQ4_XS": (23, 256, 136), "I8": (24, 1, 1), "I16": (25, 1, 2), "I32": (26, 1, 4),
    "I64": (27, 1, 8), "F64": (28, 1, 8), "IQ1_M": (29, 256, 56), "TQ1_0": (34, 256, 54),
    "TQ2_0": (35, 256, 66), "MXFP4": (39, 32, 17),
}  # fmt: skip


@pytest.mark.parametrize("kind", KNOWN_TYPES)
def test_a_type_without_kernels_is_named(realm: Realm, tmp_path: Path, kind: str) -> None:
    number, elements, size = KNOWN_TYPES[kind]
    cols = max(32, elements)
    wide = Tensor([cols, 32], number, bytes(32 * cols // elements * size))
    lie = puts("blk.1.attn_q.weight", wide)
    check(
        realm,
        tmp_path,
        LLAMA,
        lie,
        "unsupported-tensor-type",
        f"type {kind} ",
        '"blk.1.attn_q.weight"',
        "Q8_0",
    )


@pytest.mark.parametrize("number", [4, 5, 31, 36, 42, 63, 64, 99, 10**6, 2**31, 2**32 - 1])
def test_a_type_that_ggml_does_not_have(realm: Realm, tmp_path: Path, number: int) -> None:
    def lie(file: Edited) -> None:
        file.tensors["blk.1.attn_q.weight"].kind = number

    check(realm, tmp_path, LLAMA, lie, "unsupported-tensor-type", f"id {number}", '"blk.1.attn_q.weight"')


@pytest.mark.parametrize(
    "dims", [[32, 2**32 + 1], [2**32 + 32, 32], [2**33, 2**33], [32, 2**63], [32, 2**64 - 1], [32, 0]]
)
def test_sizes_that_wrap(realm: Realm, tmp_path: Path, dims: list[int]) -> None:
    def lie(file: Edited) -> None:
        file.tensors["blk.1.attn_q.weight"].dims = dims

    check(realm, tmp_path, LLAMA, lie, "invalid-gguf", "blk.1.attn_q.weight")


@pytest.mark.parametrize("missing", [1, 33, 4096])
def test_data_that_ends_early(realm: Realm, tmp_path: Path, missing: int) -> None:
    whole = edit(LLAMA)
    for name in list(whole.tensors):  # the last tensor's data ends the file
        if name == "token_embd.weight":
            whole.tensors[name] = whole.tensors.pop(name)
    assert refusal(realm, tmp_path / "short.gguf", whole.build()[:-missing]).code == "invalid-gguf"


# ---- vocabulary and output ----


@pytest.mark.parametrize("rows", [1, 806, 808, 100_000])
def test_a_vocabulary_of_another_size_than_the_embedding(realm: Realm, tmp_path: Path, rows: int) -> None:
    lie = puts("token_embd.weight", Tensor([32, rows], 0, bytes(128 * rows)))
    check(realm, tmp_path, LLAMA, lie, INVALID, '"token_embd.weight"', "807")


@pytest.mark.parametrize("rows", [1, 806, 808])
def test_an_output_of_another_size_than_the_vocabulary(realm: Realm, tmp_path: Path, rows: int) -> None:
    lie = puts("output.weight", Tensor([32, rows], 0, bytes(128 * rows)))
    check(realm, tmp_path, LLAMA, lie, INVALID, '"output.weight"', "807")


def test_tied_and_untied_output(realm: Realm, tmp_path: Path) -> None:
    """An own output matrix equal to the embedding gives the logits of the tied file; zeros give none."""
    file = edit(LLAMA)
    ids = [1, 2, 3]
    tied = logits_of(realm, VECTORS / LLAMA, ids)
    file.tensors["output.weight"] = file.tensors["token_embd.weight"]
    (tmp_path / "same.gguf").write_bytes(file.build())
    assert np.array_equal(logits_of(realm, tmp_path / "same.gguf", ids), tied)
    file.tensors["output.weight"] = Tensor([32, 807], 0, bytes(128 * 807))
    (tmp_path / "zero.gguf").write_bytes(file.build())
    assert not logits_of(realm, tmp_path / "zero.gguf", ids).any()


def logits_of(realm: Realm, path: Path, ids: list[int]) -> NDArray[np.float32]:
    model = realm.load_model(path)
    try:
        return realm.logits(ids, model=model)
    finally:
        realm.unload_model(model)


@pytest.mark.parametrize("width", [1, 3, 5, 8])
def test_rope_factors_of_another_length(realm: Realm, tmp_path: Path, width: int) -> None:
    lie = puts("rope_freqs.weight", Tensor([width], 0, struct.pack(f"<{width}f", *[1.0] * width)))
    check(realm, tmp_path, LLAMA, lie, INVALID, '"rope_freqs.weight"')


@pytest.mark.parametrize("factor", [0.0, -0.0, -1.0, NAN, INF, -INF, 1e-45])
def test_rope_factors_that_make_no_sense(realm: Realm, tmp_path: Path, factor: float) -> None:
    lie = puts("rope_freqs.weight", Tensor([4], 0, struct.pack("<4f", 1.0, 1.0, factor, 1.0)))
    check(realm, tmp_path, LLAMA, lie, INVALID, '"rope_freqs.weight"')


def test_a_file_of_a_vocabulary_alone_has_no_weights(realm: Realm, tmp_path: Path) -> None:
    def lie(file: Edited) -> None:
        file.tensors.clear()

    check(realm, tmp_path, LLAMA, lie, "no-weights", "vocabulary")
    with pytest.raises(RealmError) as caught:
        realm.load_model(VECTORS / "tokenizer-spm.gguf")
    assert caught.value.code == "no-weights"


# ---- weights that are no numbers ----

BAD_F32 = {"NaN": NAN, "infinite": INF, "negative infinite": -INF, "largest": 3.4e38}


@pytest.mark.parametrize("value", BAD_F32)
@pytest.mark.parametrize(
    "tensor", ["token_embd.weight", "blk.0.attn_q.weight", "blk.1.ffn_down.weight", "output_norm.weight"]
)
def test_weights_that_are_no_numbers(realm: Realm, tmp_path: Path, tensor: str, value: str) -> None:
    """Generation ends, with tokens of the vocabulary or with a typed error; nothing hangs."""
    file = edit(LLAMA)
    count = len(file.tensors[tensor].data) // 4
    file.tensors[tensor].data = struct.pack("<f", BAD_F32[value]) * count
    generate_from(realm, tmp_path, file)


# A scale in each quantized type of which rows of 32 are possible: (id, bytes before the scale, block)
SCALES = {"Q4_0": (2, 18), "Q8_0": (8, 34)}
BAD_F16 = {
    "NaN": b"\x00\x7e",
    "infinite": b"\x00\x7c",
    "negative infinite": b"\x00\xfc",
    "signalling NaN": b"\x01\x7c",
}


@pytest.mark.parametrize("value", BAD_F16)
@pytest.mark.parametrize("kind", SCALES)
@pytest.mark.parametrize("tensor", ["token_embd.weight", "blk.0.attn_v.weight"])
def test_scales_that_are_no_numbers(realm: Realm, tmp_path: Path, tensor: str, kind: str, value: str) -> None:
    number, size = SCALES[kind]
    file = edit(LLAMA)
    dims = file.tensors[tensor].dims
    block = BAD_F16[value] + bytes(range(1, size - 1))
    file.tensors[tensor] = Tensor(dims, number, block * dims[1])
    generate_from(realm, tmp_path, file)


def generate_from(realm: Realm, tmp_path: Path, file: Edited) -> None:
    (tmp_path / "nan.gguf").write_bytes(file.build())
    model = realm.load_model(tmp_path / "nan.gguf")
    try:
        for temperature in (0.0, 1.0):
            start = time.monotonic()
            try:
                made = realm.generate("The capital", max_tokens=4, temperature=temperature, model=model)
                assert all(0 <= token < model.info.vocab_size for token in made.tokens)
            except RealmError as problem:
                assert problem.code == INVALID, problem
            assert time.monotonic() - start < LOAD_SECONDS
    finally:
        realm.unload_model(model)


# ---- afterwards ----


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_three_hundred_failing_loads_leave_nothing(
    realm: Realm, tmp_path: Path, expected: tuple[int, ...]
) -> None:
    """Failures of every stage: directory, tokenizer, plan at its start and at its end."""
    lies: list[Lie] = [
        sets("general.alignment", g.U32, 13),
        lambda file: file.remove("tokenizer.ggml.tokens"),
        sets("llama.block_count", g.U32, 10**9),
        drops("blk.1.ffn_down.weight"),
        drops("output_norm.weight"),
    ]
    files = []
    for lie in lies:
        file = edit(LLAMA)
        lie(file)
        files.append(file.build())
    for turn in range(300):
        if turn == 60:
            gc.collect()
            before = resident_bytes()
        refusal(realm, tmp_path / f"{turn % len(files)}.gguf", files[turn % len(files)])
    gc.collect()
    assert resident_bytes() - before < 4 << 20
    assert answer(realm) == expected


def test_a_failing_load_beside_a_running_generation(
    realm: Realm, tmp_path: Path, expected: tuple[int, ...]
) -> None:
    good = realm.load_model(VECTORS / LLAMA)
    with realm.stream("The capital", max_tokens=40, temperature=0, ignore_end=True, model=good) as stream:
        file = edit(QWEN)
        drops("output_norm.weight")(file)
        (tmp_path / "lie.gguf").write_bytes(file.build())
        with pytest.raises(RealmError):
            realm.load_model(tmp_path / "lie.gguf")
        for _ in stream:
            pass
    assert stream.result.tokens[:4] == expected
    realm.unload_model(good)


# ---- what callers pass ----

GENERATE_LIES: dict[str, list[object]] = {
    "max_tokens": [0, -1, 2**32, 1.5, NAN, INF, "4", None, True, 10**30],
    "temperature": [-1, NAN, INF, "hot", None, 1e300],
    "top_k": [-1, 2**32, 1.5, NAN, "1", None],
    "top_p": [0, -0.1, 1.1, NAN, INF, "1", None],
    "min_p": [-0.1, 1.1, NAN, "0", None],
    "repetition_penalty": [0, -1, NAN, INF, "1"],
    "frequency_penalty": [-2.1, 2.1, NAN, INF],
    "presence_penalty": [-2.1, 2.1, NAN, -INF],
    "penalty_window": [-1, 2**32, 0.5],
    "seed": [-1, 2**64, 1.5, NAN, "1"],
    "mode": ["", "fast", 1],
    "stop": [[""], "", [1], 5, [None]],
    "logit_bias": [
        {-1: 1.0},
        {2**32: 1.0},
        {1: NAN},
        {1: INF},
        {1: "x"},
        {"1": 1.0},
        {1.5: 1.0},
        [1, 2],
        3,
        {807: 1.0},
    ],
}


@pytest.fixture(scope="module")
def loaded() -> Iterator[Realm]:
    with Realm(VECTORS / LLAMA, threads=1) as opened:
        yield opened


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in GENERATE_LIES.items() for value in values]
)
def test_settings_out_of_range(loaded: Realm, name: str, value: object) -> None:
    """A typed error that is a ValueError too, or Python's own TypeError; the realm goes on."""
    start = time.monotonic()
    with pytest.raises((ValueError, TypeError)) as caught:
        loaded.generate("a", **{"max_tokens": 2, **{name: value}})  # type: ignore[arg-type]
    assert time.monotonic() - start < LOAD_SECONDS
    if isinstance(caught.value, RealmError):
        assert caught.value.code == "invalid-argument"
    assert str(caught.value)


@pytest.mark.parametrize("prompt", [None, 5, 1.5, ["a"], {"a": 1}, object()])
def test_prompts_that_are_no_text(loaded: Realm, prompt: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        loaded.generate(prompt, max_tokens=1)  # type: ignore[arg-type]
    assert len(loaded.generate("a", max_tokens=1, ignore_end=True).tokens) == 1


@pytest.mark.parametrize(
    "prompt", ["\x00", "a\x00b", b"\xff\xfe", b"\xed\xa0\x80", "\ud800", "a\udfffb", "\U0010ffff"]
)
def test_prompts_of_odd_characters(loaded: Realm, prompt: str | bytes) -> None:
    """NUL and ill-formed bytes are text like any other; lone surrogates may also be refused as text."""
    try:
        made = loaded.generate(prompt, max_tokens=2, ignore_end=True)
        assert len(made.tokens) == 2 and made.prompt_tokens > 0
    except (ValueError, RealmError) as problem:
        assert isinstance(prompt, str) and any("\ud800" <= c <= "\udfff" for c in prompt), problem


def test_an_empty_prompt(loaded: Realm) -> None:
    with pytest.raises(RealmError) as caught:
        loaded.generate("", max_tokens=1, add_special=False)
    assert caught.value.code == "invalid-argument"


@pytest.mark.parametrize("text", ["a", "\n", " ", "ab ", "\u00e9"])
def test_a_prompt_of_ten_megabytes_is_refused_quickly(loaded: Realm, text: str) -> None:
    prompt = text * (10_000_000 // len(text))
    start = time.monotonic()
    with pytest.raises(RealmError) as caught:
        loaded.generate(prompt, max_tokens=1)
    assert caught.value.code in ("context-full", "guest-memory", "limit-exceeded"), caught.value
    assert time.monotonic() - start < 30
    assert len(loaded.generate("a", max_tokens=1, ignore_end=True).tokens) == 1


def many_stops() -> list[str]:
    return [f"never {index}" for index in range(100_000)]


@pytest.mark.parametrize(
    "stops", [many_stops(), ["x" * 10_000_000], ["x" * 1_000_000] * 10], ids=["many", "long", "both"]
)
def test_stop_strings_beyond_reason(loaded: Realm, stops: list[str]) -> None:
    start = time.monotonic()
    try:
        assert len(loaded.generate("a", max_tokens=2, ignore_end=True, stop=stops).tokens) == 2
    except RealmError as problem:
        assert problem.code in ("invalid-argument", "limit-exceeded", "guest-memory", "timed-out"), problem
    assert time.monotonic() - start < 30
    with Realm(VECTORS / LLAMA, threads=1) as fresh:
        assert len(fresh.generate("a", max_tokens=1, ignore_end=True).tokens) == 1


def test_logit_bias_for_more_ids_than_there_are(loaded: Realm) -> None:
    with pytest.raises(RealmError) as caught:
        loaded.generate("a", max_tokens=1, logit_bias=dict.fromkeys(range(100_000), 1.0))
    assert caught.value.code in ("invalid-argument", "limit-exceeded", "guest-memory")


def test_every_token_banned(loaded: Realm) -> None:
    banned = dict.fromkeys(range(loaded.model.info.vocab_size), -INF)
    with pytest.raises(RealmError) as caught:
        loaded.generate("a", max_tokens=1, temperature=0, logit_bias=banned)
    assert caught.value.code == "invalid-argument"
