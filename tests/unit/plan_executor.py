"""An executor outside the core, in NumPy: walks an exported plan over batch records, in float64.

It knows the records of core/include/realm_records.h and the bytes of the model, nothing else of the core, so
equal logits show that the records say all that an executor needs. Rows T, embedding d, heads H, KV heads G.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from realm._generated import records as r
from realm._library import ffi, library

from tests.reference import reference
from tests.unit import core_api

Array = NDArray[np.float64]
KV_TYPES = (np.float16, np.float32)  # by REALM_KV_...


@dataclass
class Plan:
    """The parts of realm_model_plan's block."""

    header: Any
    ops: NDArray[Any]
    tensors: NDArray[Any]
    rope: Array

    @classmethod
    def of(cls, model: Any) -> Plan:
        return cls.parse(plan_block(model))

    @classmethod
    def parse(cls, block: bytes) -> Plan:
        h = np.frombuffer(block, r.PLAN_HEADER, 1)[0]
        ops = np.frombuffer(block, r.PLAN_OP, h["op_count"], h["op_offset"])
        tensors = np.frombuffer(block, r.PLAN_TENSOR, h["tensor_count"], h["tensor_offset"])
        rope = np.frombuffer(block, "<f4", h["rope_half"], h["rope_offset"])
        assert len(block) == h["rope_offset"] + 4 * h["rope_half"]
        return cls(h, ops, tensors, rope.astype(np.float64))


def plan_block(model: Any) -> bytes:
    size = library().realm_model_plan(model, ffi.NULL, 0)
    out = ffi.new("char[]", size)
    assert library().realm_model_plan(model, out, size) == size
    return bytes(ffi.buffer(out, size))


def memory(address: int, dtype: Any, count: int) -> NDArray[Any]:
    """What lies at an address of the core, writable."""
    if count == 0:
        return np.zeros(0, dtype)
    size = np.dtype(dtype).itemsize * count
    return np.frombuffer(ffi.buffer(ffi.cast("char *", int(address)), size), dtype)


@dataclass
class Executor:
    plan: Plan
    data: bytes  # the model's bytes, shards at their bases
    weights: dict[int, Array] = field(default_factory=dict)
    pools: dict[int, NDArray[Any]] = field(default_factory=dict)  # (layers, K and V, pages, G, page, width)

    # ---- weights and pages

    def weight(self, index: int) -> Array:
        """(rows, cols), dequantized by the gguf package."""
        if index not in self.weights:
            t = self.plan.tensors[index]
            size = int(t["rows"]) * int(t["row_bytes"])
            raw = np.frombuffer(self.data, np.uint8, size, int(t["offset"]))
            kind = gguf.GGMLQuantizationType(t["type"])
            values = gguf.quants.dequantize(raw.reshape(t["rows"], t["row_bytes"]), kind)
            self.weights[index] = values.astype(np.float64).reshape(t["rows"], t["cols"])
        return self.weights[index]

    def grow(self, kv_type: int, pages: int) -> None:
        """New pages hold NaN: only what the page operations or earlier rows wrote may be read."""
        h = self.plan.header
        shape = (h["layer_count"], 2, pages, h["head_count_kv"], r.KV_PAGE, h["head_dim"])
        bigger = np.full(shape, np.nan, KV_TYPES[kv_type])
        if kv_type in self.pools:
            have = self.pools[kv_type]
            if have.shape[2] >= pages:
                return
            bigger[:, :, : have.shape[2]] = have
        self.pools[kv_type] = bigger

    def prepare_pages(self, batch: Any) -> None:
        h = self.plan.header
        for kv_type, name in ((0, "f16"), (1, "f32")):
            assert batch[f"pool_pages_{name}"] <= h[f"max_pages_{name}"]
            self.grow(kv_type, int(batch[f"pool_pages_{name}"]))
        for op in memory(batch["page_ops"], r.PAGE_OP, batch["n_page_ops"]):
            pool = self.pools[op["kv_type"]]
            if op["source"] == r.NONE:
                pool[:, :, op["destination"]] = np.nan
            else:
                pool[:, :, op["destination"]] = pool[:, :, op["source"]]

    # ---- one batch

    def run(self, batch: Any) -> None:
        h = self.plan.header
        self.batch = batch
        self.tokens = memory(batch["tokens"], "<u4", batch["n_rows"])
        self.positions = memory(batch["positions"], "<u4", batch["n_rows"])
        self.kv_slots = memory(batch["kv_slots"], "<u4", batch["n_rows"])
        self.out_rows = memory(batch["out_rows"], "<u4", batch["n_out"])
        self.segments = memory(batch["segments"], r.BATCH_SEGMENT, batch["n_segments"])
        self.pages = memory(batch["pages"], "<u4", batch["n_pages"])
        self.check()
        self.prepare_pages(batch)
        self.slots: dict[int, Array] = {}
        end = batch["layer_first"] + batch["layer_count"]
        if batch["layer_first"] > 0:
            self.slots[r.Slot.X] = np.concatenate([self.hidden(s) for s in self.segments]).astype(np.float64)
        for op in self.plan.ops:
            head = op["layer"] == r.LAYER_HEAD
            wanted = end == h["layer_count"] and batch["n_out"] > 0
            if wanted if head else batch["layer_first"] <= op["layer"] < end:
                self.op(op)
        for s in self.segments:
            if end < h["layer_count"]:
                self.hidden(s)[:] = self.slots[r.Slot.X][s["row0"] : s["row0"] + s["n_rows"]]
        if batch["n_out"] > 0 and end == h["layer_count"]:
            logits = memory(batch["logits"], "<f4", int(batch["n_out"]) * int(h["vocab_size"]))
            logits[:] = self.slots[r.Slot.LOGITS].astype(np.float32).reshape(-1)

    def check(self) -> None:
        """What the records promise of each other."""
        segment_of = memory(self.batch["row_segments"], "<u4", self.batch["n_rows"])
        row = 0
        for index, s in enumerate(self.segments):
            rows = slice(row, row + s["n_rows"])
            assert s["row0"] == row and (segment_of[rows] == index).all()
            assert (self.positions[rows] == s["pos0"] + np.arange(s["n_rows"])).all()
            pages = self.pages[s["page0"] : s["page0"] + s["n_pages"]]
            assert len(pages) * r.KV_PAGE >= s["pos0"] + s["n_rows"] > (len(pages) - 1) * r.KV_PAGE
            slots = pages[self.positions[rows] // r.KV_PAGE] * r.KV_PAGE + self.positions[rows] % r.KV_PAGE
            assert (slots == self.kv_slots[rows]).all()
            row += int(s["n_rows"])
        assert row == self.batch["n_rows"]

    def hidden(self, segment: Any) -> NDArray[Any]:
        width = int(self.plan.header["embedding_length"])
        rows = int(segment["n_rows"])
        return memory(segment["hidden"], "<f4", rows * width).reshape(rows, width)

    def op(self, op: Any) -> None:
        kind, dst, src = r.OpKind(op["kind"]), r.Slot(op["dst"]), r.Slot(op["src"])
        x = self.slots.get(src, np.zeros((0, 0)))
        w = self.weight(op["weight"]) if op["weight"] != r.NONE else np.zeros((0, 0))
        match kind:
            case r.OpKind.EMBED:
                self.slots[dst] = w[self.tokens]
            case r.OpKind.RMSNORM:
                mean = np.mean(x * x, axis=-1, keepdims=True)
                self.slots[dst] = x / np.sqrt(mean + op["f0"]) * w
            case r.OpKind.MATMUL:
                self.slots[dst] = x @ w.T
            case r.OpKind.BIAS:
                self.slots[dst] = self.slots[dst] + w
            case r.OpKind.ROPE:
                self.slots[dst] = self.rope(self.slots[dst], int(op["n_head"]))
            case r.OpKind.KV_STORE:
                self.store(int(op["layer"]), x, self.slots[r.Slot(op["src2"])])
            case r.OpKind.ATTENTION:
                self.slots[dst] = np.concatenate([self.attend(op, s, x) for s in self.segments])
            case r.OpKind.SILU_MUL:
                self.slots[dst] = reference.silu(self.slots[dst]) * x
            case r.OpKind.GELU_MUL:
                self.slots[dst] = reference.gelu_tanh(self.slots[dst]) * x
            case r.OpKind.ADD:
                self.slots[dst] = self.slots[dst] + x
            case r.OpKind.SCALE:
                self.slots[dst] = self.slots[dst] * float(op["f0"])
            case r.OpKind.GATHER:
                self.slots[dst] = x[self.out_rows]
            case r.OpKind.SOFTCAP:
                self.slots[dst] = float(op["f0"]) * np.tanh(self.slots[dst] / float(op["f0"]))
        assert self.slots[dst].shape[1] == op["width"] <= self.plan.header["slot_width"][dst]

    def rope(self, x: Array, heads: int) -> Array:
        h, half = self.plan.header, len(self.plan.rope)
        angles = self.positions[:, None] * self.plan.rope
        cos, sin = np.cos(angles)[:, None, :], np.sin(angles)[:, None, :]
        x = x.reshape(len(x), heads, h["head_dim"]).copy()
        neox = (slice(0, half), slice(half, 2 * half))
        first, second = neox if h["rope_neox"] else (slice(0, 2 * half, 2), slice(1, 2 * half, 2))
        a, b = x[..., first].copy(), x[..., second].copy()
        x[..., first] = a * cos - b * sin
        x[..., second] = a * sin + b * cos
        return x.reshape(len(x), -1)

    def store(self, layer: int, k: Array, v: Array) -> None:
        pool, h = self.pools[int(self.batch["kv_type"])], self.plan.header
        for row, place in enumerate(self.kv_slots):
            page, slot = divmod(int(place), r.KV_PAGE)
            for part, values in ((0, k), (1, v)):
                pool[layer, part, page, :, slot] = values[row].reshape(h["head_count_kv"], h["head_dim"])

    def attend(self, op: Any, s: Any, q: Array) -> Array:
        """softmax(Q K^T * scale, capped, masked) V of one segment's rows."""
        h = self.plan.header
        heads, groups, width = int(h["head_count"]), int(h["head_count_kv"]), int(h["head_dim"])
        pages = self.pages[s["page0"] : s["page0"] + s["n_pages"]]
        count = int(s["pos0"] + s["n_rows"])
        parts = self.pools[int(self.batch["kv_type"])][op["layer"]][:, pages]  # (2, pages, G, page, width)
        flat = parts.transpose(2, 0, 1, 3, 4).reshape(groups, 2, -1, width)[:, :, :count].astype(np.float64)
        k, v = flat[:, 0].repeat(heads // groups, axis=0), flat[:, 1].repeat(heads // groups, axis=0)
        rows = slice(int(s["row0"]), int(s["row0"] + s["n_rows"]))
        query = q[rows].reshape(-1, heads, width)
        scores = np.einsum("thw,hkw->htk", query, k) * float(op["f0"])
        if op["f1"] > 0:
            scores = float(op["f1"]) * np.tanh(scores / float(op["f1"]))
        distance = self.positions[rows][:, None].astype(np.int64) - np.arange(count)[None, :]
        visible = (distance >= 0) & ((distance < op["window"]) | (op["window"] == 0))
        mixed = np.einsum("htk,hkw->thw", reference.softmax(np.where(visible, scores, -np.inf)), v)
        rows_out: Array = mixed.reshape(len(query), -1)
        return rows_out


class Runtime(core_api.Runtime):
    """A core whose batches the executors above compute, by the plan's model id."""

    def __init__(self, **options: int) -> None:
        super().__init__(executor=self.kind(), **options)
        self.stepped = True
        self.executors: dict[int, Any] = {}
        self.batches: list[Any] = []
        self.copies = self.wipes = 0

    @staticmethod
    def kind() -> int:
        return int(library().REALM_EXECUTOR_EXTERNAL)

    def attach(self, model: Any, data: bytes) -> Any:
        """Gives the model an executor; data are all its bytes."""
        executor = Executor(Plan.of(model), data)
        self.executors[int(executor.plan.header["model"])] = executor
        return executor

    def take(self) -> Any:
        """The next batch's record, or None."""
        out, some = ffi.new("realm_batch *"), ffi.new("uint32_t *")
        core_api.check(self.lib.realm_runtime_take_batch(self.handle, out, some, self.err), self.err)
        if not some[0]:
            return None
        batch = np.frombuffer(bytes(ffi.buffer(out)), r.BATCH, 1)[0]
        sources = memory(batch["page_ops"], r.PAGE_OP, batch["n_page_ops"])["source"]
        self.copies += int((sources != r.NONE).sum())
        self.wipes += int((sources == r.NONE).sum())
        self.batches.append(batch)
        return batch

    def finish(self, batch: Any, failed: int = 0, message: bytes = b"") -> None:
        code = self.lib.realm_runtime_finish_batch(self.handle, int(batch["id"]), failed, message, self.err)
        core_api.check(code, self.err)

    def wait(self) -> int:
        if (batch := self.take()) is not None:
            self.executors[int(batch["model"])].run(batch)
            self.finish(batch)
        else:
            busy = ffi.new("uint32_t *")
            core_api.check(self.lib.realm_runtime_step(self.handle, 0, 0, busy, self.err), self.err)
        events = ffi.new("realm_completion[64]")
        return int(self.lib.realm_runtime_wait(self.handle, events, 64, 0))
