"""KV storage and attention on the GPU, over pages scattered in their pool, against the formula in float64."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from tests.gpu.bench import Gpu, GpuError
from tests.unit.kernels import F32, F64

PAGE = 16
BOUND = {
    "f32": 3e-6,
    "f16": 3e-6,
}  # K and V are rounded before the comparison, so both only differ by additions
SKIPPED = 0xFFFFFFFF


@dataclasses.dataclass
class Session:
    """`rows` new positions after `before` earlier ones."""

    before: int
    rows: int
    kv_type: str = "f16"

    @property
    def length(self) -> int:
        return self.before + self.rows


@dataclasses.dataclass
class Shape:
    heads: int = 4
    heads_kv: int = 2
    head_dim: int = 64
    window: int = 0
    softcap: float = 0.0
    longest: int = 0  # told to the kernels, which then split long contexts


class Batch:
    """All positions of all sessions in one K and V array each; their pages lie in random order in a pool."""

    def __init__(self, sessions: list[Session], shape: Shape, kv_type: str, seed: int = 1) -> None:
        self.sessions, self.shape, self.kv_type = sessions, shape, kv_type
        rng = np.random.default_rng(seed)
        total = sum(s.length for s in sessions)
        width = shape.heads_kv * shape.head_dim
        self.k, self.v = (rng.standard_normal((total, width), np.float32) for _ in range(2))
        self.q = rng.standard_normal((self.rows, shape.heads * shape.head_dim), np.float32)
        needed = [-(-s.length // PAGE) for s in sessions]
        self.capacity = sum(needed) + 3
        self.pages = rng.permutation(self.capacity)[: sum(needed)].astype(np.uint32)
        self.page0 = np.cumsum([0, *needed])[:-1]

    @property
    def rows(self) -> int:
        return sum(s.rows for s in self.sessions)

    def slots(self) -> np.ndarray:
        out = []
        for session, page0 in zip(self.sessions, self.page0, strict=True):
            at = np.arange(session.length)
            slots = self.pages[page0 + at // PAGE] * PAGE + at % PAGE
            out.append(slots if session.kv_type == self.kv_type else np.full(session.length, SKIPPED))
        return np.concatenate(out).astype(np.uint32)

    def segments(self) -> tuple[np.ndarray, np.ndarray]:
        records, of_row, row0 = [], [], 0
        for i, (s, page0) in enumerate(zip(self.sessions, self.page0, strict=True)):
            pages = -(-s.length // PAGE)
            records.append([row0, s.rows, s.before, int(s.kv_type == "f32"), page0, pages, 0, 0])
            of_row += [i] * s.rows
            row0 += s.rows
        return np.array(records, np.uint32), np.array(of_row, np.uint32)

    def run(self, gpu: Gpu) -> F32:
        shape, (segments, of_row) = self.shape, self.segments()
        per_vector = 2 * -(-shape.head_dim // 2) * (4 if self.kv_type == "f32" else 2)
        pool = self.capacity * shape.heads_kv * PAGE * per_vector
        common = {"kPool": "kp", "vPool": "vp", "headDim": shape.head_dim, "kvType": self.kv_type}
        store = {"k": "k", "v": "v", "slots": "s", "rows": len(self.k), "heads": shape.heads_kv}
        attend = {
            **{"q": "q", "dst": "y", "pageTable": "pages", "segments": "segments", "rowSegment": "of_row"},
            **{"rows": self.rows, "heads": shape.heads, "headsKv": shape.heads_kv, "window": shape.window},
            **{"scale": 1 / math.sqrt(shape.head_dim), "softcap": shape.softcap},
            "longest": shape.longest,
        }
        arrays: dict[str, np.ndarray | int] = {
            **{
                "k": self.k,
                "v": self.v,
                "s": self.slots(),
                "kp": pool,
                "vp": pool,
                "pages": self.pages,
                "q": self.q,
            },
            **{"segments": segments, "of_row": of_row, "y": self.q.nbytes},
        }
        [y] = gpu.run([("kvStore", {**store, **common}), ("attention", {**attend, **common})], arrays, "y")
        return y.reshape(self.q.shape)

    def expected(self) -> F64:
        rounded = np.float16 if self.kv_type == "f16" else np.float32
        k, v = (a.astype(rounded).astype(np.float64) for a in (self.k, self.v))
        out, at, row = [], 0, 0
        for s in self.sessions:
            for r in range(s.rows):
                last = s.before + r
                first = max(0, last - self.shape.window + 1) if self.shape.window else 0
                seen = slice(at + first, at + last + 1)
                out.append(self.attend(self.q[row], k[seen], v[seen]))
                row += 1
            at += s.length
        return np.array(out)

    def attend(self, q: F32, k: F64, v: F64) -> F64:
        shape = self.shape
        heads = []
        for h in range(shape.heads):
            h_kv = h // (shape.heads // shape.heads_kv)
            columns = slice(h_kv * shape.head_dim, (h_kv + 1) * shape.head_dim)
            own = q[h * shape.head_dim : (h + 1) * shape.head_dim].astype(np.float64)
            scores = k[:, columns] @ own / math.sqrt(shape.head_dim)
            if shape.softcap:
                scores = shape.softcap * np.tanh(scores / shape.softcap)
            weights = np.exp(scores - scores.max())
            heads.append(weights / weights.sum() @ v[:, columns])
        return np.concatenate(heads)


def check(gpu: Gpu, batch: Batch) -> None:
    y, expected = batch.run(gpu), batch.expected()
    mine = np.repeat([s.kv_type == batch.kv_type for s in batch.sessions], [s.rows for s in batch.sessions])
    np.testing.assert_allclose(
        y[mine], expected[mine], rtol=0, atol=BOUND[batch.kv_type] * np.abs(batch.v).max()
    )
    assert np.isnan(y[~mine]).all()  # untouched


@pytest.mark.parametrize("kv_type", ("f16", "f32"))
@pytest.mark.parametrize("length", (1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129, 255, 256, 257, 300))
def test_decode_around_pages_and_tiles(gpu: Gpu, length: int, kv_type: str) -> None:
    check(gpu, Batch([Session(length - 1, 1, kv_type)], Shape(), kv_type))


@pytest.mark.parametrize("length", (256, 257, 511, 513, 1000, 1025, 2300))
def test_long_contexts_split_between_workgroups(gpu: Gpu, length: int) -> None:
    sessions = [Session(length - 1, 1), Session(0, 1), Session(300, 3)]
    check(gpu, Batch(sessions, Shape(longest=length), "f16"))
    check(gpu, Batch(sessions, Shape(longest=length, window=600), "f16"))


@pytest.mark.parametrize("rows", (2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 65))
@pytest.mark.parametrize("before", (0, 37))
def test_prefill_around_tiles(gpu: Gpu, rows: int, before: int) -> None:
    check(gpu, Batch([Session(before, rows)], Shape(), "f16"))


@pytest.mark.parametrize(
    "head_dim, kv_type",
    [*((d, "f16") for d in (1, 2, 31, 33, 63, 65, 128, 256, 511, 512)), (3, "f32"), (64, "f32")],
)
def test_head_dims(gpu: Gpu, head_dim: int, kv_type: str) -> None:
    shape = Shape(heads=2, heads_kv=1, head_dim=head_dim)
    check(gpu, Batch([Session(18, 1, kv_type), Session(3, 17, kv_type)], shape, kv_type))


@pytest.mark.parametrize("heads, heads_kv", ((1, 1), (6, 6), (6, 3), (7, 1), (8, 2), (16, 1), (14, 2)))
def test_grouped_heads(gpu: Gpu, heads: int, heads_kv: int) -> None:
    shape = Shape(heads=heads, heads_kv=heads_kv, head_dim=32)
    check(gpu, Batch([Session(40, 1), Session(0, 19)], shape, "f16"))


@pytest.mark.parametrize("window", (1, 2, 15, 16, 17, 64, 100, 1000))
def test_sliding_window(gpu: Gpu, window: int) -> None:
    check(gpu, Batch([Session(129, 1), Session(50, 33), Session(0, 5)], Shape(window=window), "f16"))


def test_softcap(gpu: Gpu) -> None:
    check(gpu, Batch([Session(70, 1), Session(10, 20)], Shape(softcap=1.5), "f16"))


def test_many_sessions_in_one_batch(gpu: Gpu) -> None:
    sessions = [Session(0, 1), Session(99, 1), Session(16, 30), Session(5, 3), Session(31, 1), Session(15, 1)]
    check(gpu, Batch(sessions, Shape(), "f16"))


@pytest.mark.parametrize("kv_type", ("f16", "f32"))
def test_sessions_of_both_kv_types_in_one_batch(gpu: Gpu, kv_type: str) -> None:
    check(gpu, Batch([Session(20, 2, "f16"), Session(9, 3, "f32"), Session(40, 1, "f16")], Shape(), kv_type))


def test_large_scores_do_not_overflow(gpu: Gpu) -> None:
    batch = Batch([Session(100, 1)], Shape(), "f32")
    batch.sessions[0].kv_type = "f32"
    batch.q *= 1000
    check(gpu, batch)


def test_numbers_past_the_halves_stay_finite(gpu: Gpu) -> None:
    batch = Batch([Session(3, 1)], Shape(heads=1, heads_kv=1, head_dim=4), "f16")
    batch.v[0, 0], batch.v[1, 0] = 1e6, -1e30
    assert np.isfinite(batch.run(gpu)).all()


def test_heads_that_are_too_large_are_refused(gpu: Gpu) -> None:
    with pytest.raises(GpuError) as error:
        Batch([Session(3, 1)], Shape(heads=1, heads_kv=1, head_dim=514), "f16").run(gpu)
    assert error.value.code == "unsupported-architecture"
