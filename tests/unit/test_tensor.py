"""core/tensor.c and core/layer_store.c: products and reads against NumPy in float64 over weights that the
`gguf` package dequantizes, any slicing, hostile shapes; the layer store against a dictionary."""

from __future__ import annotations

import functools
import random
from typing import Any

import cffi
import gguf
import numpy as np
import pytest

from realm_build import ctest
from realm_build.paths import ROOT, sources
from tests.unit import clib

FILES = (
    "core/tensor.c", "core/layer_store.c", "core/base.c", "core/blocks.c", "core/cpu/ops_portable.c",
    "core/cpu/attention_portable.c", "core/cpu/packing.c", "core/platform/platform_posix.c",
)  # fmt: skip
OK, INVALID_ARGUMENT, OUT_OF_MEMORY, UNSUPPORTED_TYPE, INVALID_MODEL, NOT_FOUND, LIMIT = 0, 1, 3, 8, 11, 4, 15
TYPES = ["F32", "F16", "BF16", "Q4_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
SCALES = {
    "Q4_0": [0],
    "Q8_0": [0],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
}  # where a block's f16 scales stand
TOLERANCE = 2e-5  # of the largest possible sum, float32 accumulation


@functools.cache
def library() -> tuple[Any, Any, Any]:
    ffi = cffi.FFI()
    ffi.cdef("""
        typedef int realm_status;
        typedef struct realm_error { int32_t code; char message[256]; } realm_error;
        typedef struct cpu_ops cpu_ops;
        typedef struct realm_cache_stats {
            uint64_t layers, bytes, limit_bytes, hits, misses, evictions;
        } realm_cache_stats;
        void cpu_fill_portable(cpu_ops *ops);
    """)
    ffi.cdef(clib.declarations(ROOT / "core" / "tensor.h"))
    ffi.cdef(clib.declarations(ROOT / "core" / "layer_store.h"))
    ffi.cdef("void cpu_pack_stripe(uint32_t type, const uint8_t *rows, size_t row_bytes, uint8_t *out);")
    lib = ffi.dlopen(str(ctest.visible_library("tensor", sources(*FILES))))
    room = ffi.new("uint64_t[]", 1024)  # more than the op table needs; its fields are not this test's matter
    ops = ffi.cast("cpu_ops *", room)
    lib.cpu_fill_portable(ops)
    return ffi, lib, (ops, room)


class Tensors:
    """Thin calls; whatever is made here is released at the end of the test."""

    def __init__(self) -> None:
        self.ffi, self.lib, (self.ops, self._room) = library()
        self.made: list[Any] = []
        self.views: list[Any] = []
        self.error = self.ffi.new("realm_error *")

    def close(self) -> None:
        for tensor in self.made:
            self.lib.tensor_release(tensor)

    def _out(self, kind: str = "tensor *") -> Any:
        self.error.code = 0
        return self.ffi.new(f"{kind}[1]")

    def keep(self, tensor: Any) -> Any:
        self.made.append(tensor)
        return tensor

    def create(self, values: np.ndarray) -> Any:
        out, data = self._out(), np.ascontiguousarray(values, np.float32)
        source = self.ffi.from_buffer("float[]", data)
        assert self.lib.tensor_create(*data.shape, source, out, self.error) == OK
        return self.keep(out[0])

    def create_status(self, rows: int, cols: int) -> int:
        return int(self.lib.tensor_create(rows, cols, self.ffi.NULL, self._out(), self.error))

    def view_status(
        self, kind: int, data: bytes, rows: int, cols: int, packed: bool = False
    ) -> tuple[int, Any]:
        out, kept = self._out(), self.ffi.new("char[]", data)
        self.views.append(kept)
        status = self.lib.tensor_view(kind, packed, kept, len(data), rows, cols, out, self.error)
        return status, out[0]

    def view(self, kind: str, data: bytes, rows: int, cols: int) -> Any:
        status, tensor = self.view_status(gguf.GGMLQuantizationType[kind].value, data, rows, cols)
        assert status == OK
        return self.keep(tensor)

    def read(self, tensor: Any, cap: int | None = None) -> np.ndarray:
        shape = (self.lib.tensor_rows(tensor), self.lib.tensor_cols(tensor))
        size = shape[0] * shape[1] if cap is None else cap
        out, count = np.full(size + 8, 123.0, np.float32), self.ffi.new("size_t *")
        buffer = self.ffi.from_buffer("float[]", out)
        assert self.lib.tensor_read(self.ops, tensor, buffer, size, count, self.error) == OK
        assert count[0] == shape[0] * shape[1]
        assert (out[size:] == 123).all()
        return out[:size].reshape(shape) if cap is None else out[:size]

    def begin(self, a: Any, b: Any, transposed: bool) -> tuple[int, Any]:
        out = self._out("tensor_product *")
        return self.lib.tensor_product_begin(self.ops, a, b, transposed, out, self.error), out[0]

    def product(self, a: Any, b: Any, transposed: bool, budget: int = 0) -> tuple[np.ndarray, int]:
        """(result, steps)."""
        status, job = self.begin(a, b, transposed)
        assert status == OK
        steps = 1
        while not self.lib.tensor_product_step(job, budget):
            steps += 1
        return self.read(self.keep(self.lib.tensor_product_finish(job))), steps


@pytest.fixture
def tensors() -> Any:
    made = Tensors()
    yield made
    made.close()


def random_weight(kind: str, rows: int, cols: int, seed: int) -> tuple[bytes, np.ndarray]:
    """Random blocks with small scales, and what the gguf package says they mean."""
    rng = np.random.default_rng(seed)
    quantization = gguf.GGMLQuantizationType[kind]
    if kind in ("F32", "F16", "BF16"):
        data = gguf.quants.quantize(rng.standard_normal((rows, cols)).astype(np.float32), quantization)
    else:
        elements, size = gguf.GGML_QUANT_SIZES[quantization]
        data = rng.integers(0, 256, (rows, cols // elements, size), dtype=np.uint8)
        for offset in SCALES[kind]:
            scales = rng.uniform(0.001, 0.01, data.shape[:2]).astype(np.float16)
            data[:, :, offset : offset + 2] = scales[:, :, None].view(np.uint8)
        data = data.reshape(rows, -1)
    return data.tobytes(), gguf.quants.dequantize(data, quantization).reshape(rows, cols)


def close_to(result: np.ndarray, a: np.ndarray, b: np.ndarray) -> bool:
    """Against float64, relative to the sum of the magnitudes that were added."""
    exact = a.astype(np.float64) @ b.astype(np.float64)
    scale = np.abs(a).astype(np.float64) @ np.abs(b).astype(np.float64)
    return bool((np.abs(result - exact) <= TOLERANCE * scale + 1e-30).all())


# ---- tensors ----


def test_reads_back_what_was_stored(tensors: Tensors) -> None:
    values = np.arange(21, dtype=np.float32).reshape(3, 7)
    tensor = tensors.create(values)
    values_copy = values.copy()
    values[:] = -1  # the tensor owns a copy
    assert (tensors.read(tensor) == values_copy).all()
    assert (tensors.read(tensor, cap=10) == np.arange(10)).all()
    assert tensors.lib.tensor_bytes(tensor) >= 21 * 4
    assert tensors.lib.tensor_bytes(tensor) == tensors.lib.tensor_owned_bytes(3, 7)


def test_no_data_means_zeros(tensors: Tensors) -> None:
    out = tensors._out()
    assert tensors.lib.tensor_create(5, 9, tensors.ffi.NULL, out, tensors.error) == OK
    assert not tensors.read(tensors.keep(out[0])).any()


@pytest.mark.parametrize("kind", TYPES[3:])
def test_packed_views_read_as_the_rows_they_were(tensors: Tensors, kind: str) -> None:
    data, exact = random_weight(kind, 19, 512, 1)  # two stripes, and three rows that stay as they are
    number = gguf.GGMLQuantizationType[kind].value
    row_bytes = len(data) // 19
    stripes = [data[at : at + 8 * row_bytes] for at in (0, 8 * row_bytes)]
    made = [tensors.ffi.new("uint8_t[]", len(stripe)) for stripe in stripes]
    for stripe, out in zip(stripes, made, strict=True):
        tensors.lib.cpu_pack_stripe(number, tensors.ffi.from_buffer("uint8_t[]", stripe), row_bytes, out)
    packed = b"".join(bytes(tensors.ffi.buffer(out)) for out in made) + data[16 * row_bytes :]
    status, view = tensors.view_status(number, packed, 19, 512, packed=True)
    assert status == OK
    tensors.keep(view)
    np.testing.assert_allclose(tensors.read(view), exact, rtol=1e-6)
    assert (tensors.read(view, cap=512 * 9 + 37) == tensors.read(view).reshape(-1)[: 512 * 9 + 37]).all()


@pytest.mark.parametrize("kind", TYPES)
def test_views_read_as_gguf_dequantizes(tensors: Tensors, kind: str) -> None:
    data, exact = random_weight(kind, 3, 512, 1)
    view = tensors.view(kind, data, 3, 512)
    assert np.allclose(tensors.read(view), exact, rtol=1e-6, atol=1e-9)
    for cap in (0, 1, 31, 33, 255, 257, 512, 700, 1535):  # cut inside blocks and rows
        assert np.allclose(tensors.read(view, cap), exact.ravel()[:cap], rtol=1e-6, atol=1e-9)


def test_sizes_out_of_range_are_refused(tensors: Tensors) -> None:
    assert tensors.create_status(0, 5) == INVALID_ARGUMENT
    assert tensors.create_status(5, 0) == INVALID_ARGUMENT
    assert tensors.create_status(2**32 - 1, 2**32 - 1) == OUT_OF_MEMORY
    assert tensors.lib.tensor_owned_bytes(2**32 - 1, 2**32 - 1) == 2**64 - 1


def test_views_that_do_not_fit_are_refused(tensors: Tensors) -> None:
    q8 = gguf.GGMLQuantizationType.Q8_0.value
    assert tensors.view_status(q8, bytes(34 * 4), 2, 64)[0] == OK
    for rows, cols in ((3, 64), (2, 63), (2, 96), (0, 64), (2, 0), (2**32 - 1, 2**32 - 32)):
        assert tensors.view_status(q8, bytes(34 * 4), rows, cols) == (INVALID_MODEL, tensors.ffi.NULL)
    for kind in (3, 4, 5, 10, 63, 64, 2**32 - 1):  # not computable, removed, unknown
        assert tensors.view_status(kind, bytes(1000), 1, 256)[0] == UNSUPPORTED_TYPE


# ---- products ----


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("m", [1, 5, 16, 17, 40])
def test_transposed_product(tensors: Tensors, kind: str, m: int) -> None:
    n, k = 19, 512
    data, weight = random_weight(kind, n, k, 2)
    a = np.random.default_rng(3).standard_normal((m, k)).astype(np.float32)
    result, steps = tensors.product(tensors.create(a), tensors.view(kind, data, n, k), transposed=True)
    assert result.shape == (m, n)
    assert steps == 1
    assert close_to(result, a, weight.T)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("m", [1, 16, 33])
def test_plain_product(tensors: Tensors, kind: str, m: int) -> None:
    k, n = 23, 256
    data, weight = random_weight(kind, k, n, 4)
    a = np.random.default_rng(5).standard_normal((m, k)).astype(np.float32)
    result, _ = tensors.product(tensors.create(a), tensors.view(kind, data, k, n), transposed=False)
    assert close_to(result, a, weight)


def test_both_sides_may_be_weights(tensors: Tensors) -> None:
    left, a = random_weight("Q6_K", 18, 256, 6)
    right, b = random_weight("Q4_0", 7, 256, 7)
    plain, c = random_weight("Q8_0", 256, 32, 8)
    first = tensors.view("Q6_K", left, 18, 256)
    result, _ = tensors.product(first, tensors.view("Q4_0", right, 7, 256), transposed=True, budget=100)
    assert close_to(result, a, b.T)
    result, _ = tensors.product(first, tensors.view("Q8_0", plain, 256, 32), transposed=False, budget=100)
    assert close_to(result, a, c)


@pytest.mark.parametrize("transposed", [True, False])
def test_slicing_never_changes_a_bit(tensors: Tensors, transposed: bool) -> None:
    rng = np.random.default_rng(9)
    a = rng.standard_normal((37, 64)).astype(np.float32)
    b = rng.standard_normal((50, 64) if transposed else (64, 50)).astype(np.float32)
    left, right = tensors.create(a), tensors.create(b)
    whole, _ = tensors.product(left, right, transposed)
    assert close_to(whole, a, b.T if transposed else b)
    fewest = []
    for budget in (1, 1000, 5000, 64 * 50 * 16, 2**63, 2**64 - 1):
        result, steps = tensors.product(left, right, transposed, budget)
        assert result.tobytes() == whole.tobytes()
        fewest.append(steps)
    assert fewest[0] > 50, "a small budget must give small slices"
    assert fewest[-1] == fewest[-2] == 1
    assert fewest == sorted(fewest, reverse=True)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 1), (2, 1, 5), (17, 2, 1)])
def test_smallest_shapes(tensors: Tensors, shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    rng = np.random.default_rng(10)
    a, b = rng.standard_normal((m, k)), rng.standard_normal((k, n))
    for budget in (0, 1, 2**64 - 1):
        plain, _ = tensors.product(tensors.create(a), tensors.create(b), False, budget)
        turned, _ = tensors.product(tensors.create(a), tensors.create(b.T), True, budget)
        assert np.allclose(plain, a @ b, atol=1e-5)
        assert np.allclose(turned, a @ b, atol=1e-5)


def test_shapes_that_do_not_fit_name_themselves(tensors: Tensors) -> None:
    a, b = tensors.create(np.zeros((2, 3))), tensors.create(np.zeros((2, 4)))
    for transposed in (False, True):
        assert tensors.begin(a, b, transposed) == (INVALID_ARGUMENT, tensors.ffi.NULL)
        message = tensors.ffi.string(tensors.error.message).decode()
        assert "(2, 3)" in message
        assert "(2, 4)" in message


def test_abandoned_and_outlived_products(tensors: Tensors) -> None:
    """A job keeps its operands alive; abandoning one in the middle frees it."""
    values = np.eye(20, dtype=np.float32)
    out = tensors._out()
    source = tensors.ffi.from_buffer("float[]", values)
    assert tensors.lib.tensor_create(20, 20, source, out, tensors.error) == OK
    status, job = tensors.begin(out[0], out[0], True)
    assert status == OK
    _, abandoned = tensors.begin(out[0], out[0], False)
    tensors.lib.tensor_release(out[0])
    tensors.lib.tensor_product_step(abandoned, 1)
    tensors.lib.tensor_product_abandon(abandoned)
    assert tensors.lib.tensor_product_step(job, 0)
    result = tensors.keep(tensors.lib.tensor_product_finish(job))
    assert (tensors.read(result) == values).all()


# ---- the layer store ----


class Store:
    def __init__(self, tensors: Tensors, limit: int = 0) -> None:
        self.t, self.lib, self.ffi = tensors, tensors.lib, tensors.ffi
        out = tensors._out("layer_store *")
        assert self.lib.layer_store_create(limit, out, tensors.error) == OK
        self.store = out[0]

    def put(self, address: int, tensor: Any) -> int:
        self.t.error.code = 0
        return int(self.lib.layer_store_put(self.store, address, tensor, self.t.error))

    def get(self, address: int) -> Any:
        """The stored tensor, or the status."""
        out = self.t._out()
        status = self.lib.layer_store_get(self.store, address, out, self.t.error)
        return self.t.keep(out[0]) if status == OK else status

    def remove(self, address: int) -> bool:
        return bool(self.lib.layer_store_remove(self.store, address))

    def stats(self) -> Any:
        stats = self.ffi.new("realm_cache_stats *")
        self.lib.layer_store_stats(self.store, stats)
        return stats

    def close(self) -> None:
        self.lib.layer_store_destroy(self.store)


def test_store_behaves_as_a_dictionary(tensors: Tensors) -> None:
    """Random puts, gets and removals of clustered and far addresses, over several growths of the table."""
    rng, store = random.Random(1), Store(tensors)
    values = [tensors.create(np.full((1, 1), n)) for n in range(50)]
    addresses = [
        *range(300),
        *(rng.getrandbits(64) for _ in range(300)),
        2**64 - 1,
        *(n << 32 for n in range(50)),
    ]
    model: dict[int, float] = {}
    hits = misses = 0
    for _ in range(20_000):
        address, action = rng.choice(addresses), rng.random()
        if action < 0.4:
            n = rng.randrange(50)
            assert store.put(address, values[n]) == OK
            model[address] = n
        elif action < 0.7:
            found = store.get(address)
            if address in model:
                assert tensors.read(found)[0, 0] == model[address]
                hits += 1
            else:
                assert found == NOT_FOUND
                misses += 1
        else:
            assert store.remove(address) == (model.pop(address, None) is not None)
    stats = store.stats()
    assert (stats.layers, stats.hits, stats.misses, stats.evictions) == (len(model), hits, misses, 0)
    assert stats.bytes == len(model) * tensors.lib.layer_store_cost(values[0])
    for address in list(model):
        assert store.remove(address)
    assert (store.stats().layers, store.stats().bytes) == (0, 0)
    store.close()


def test_full_store_refuses_and_stays_as_it_was(tensors: Tensors) -> None:
    small, large = tensors.create(np.ones((4, 4))), tensors.create(np.ones((100, 100)))
    cost = tensors.lib.layer_store_cost(small)
    store = Store(tensors, limit=3 * cost)
    assert [store.put(n, small) for n in range(4)] == [OK, OK, OK, LIMIT]
    assert store.put(1, large) == LIMIT
    assert (tensors.read(store.get(1)) == 1).all()
    assert store.put(1, small) == OK  # replacing takes no more room
    assert (store.stats().layers, store.stats().bytes, store.stats().limit_bytes) == (3, 3 * cost, 3 * cost)
    assert store.get(3) == NOT_FOUND
    assert store.remove(2)
    assert store.put(3, small) == OK
    store.close()


def test_tensors_outlive_the_store_and_the_store_outlives_handles(tensors: Tensors) -> None:
    store, out = Store(tensors), tensors._out()
    assert tensors.lib.tensor_create(2, 2, tensors.ffi.NULL, out, tensors.error) == OK
    assert store.put(7, out[0]) == OK
    tensors.lib.tensor_release(out[0])
    taken = store.get(7)
    store.put(7, taken)  # the same tensor over itself
    store.close()
    assert not tensors.read(taken).any()


def test_views_are_not_free_in_the_store(tensors: Tensors) -> None:
    """A view owns nothing of its weight, but endless entries must not be free of charge."""
    data, _ = random_weight("Q8_0", 1, 32, 11)
    view = tensors.view("Q8_0", data, 1, 32)
    store = Store(tensors, limit=10_000)
    stored = 0
    while store.put(stored, view) == OK:
        stored += 1
    assert 10 < stored < 10_000 // 64
    store.close()
