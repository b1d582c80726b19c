"""Models from directories alone, and in several files: the same plan and logits as from the whole file."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from realm._library import ffi, library

from tests.unit import gguf_bytes as g
from tests.unit import plan_executor
from tests.unit.core_api import Context, CoreError, Runtime, check
from tests.unit.gguf_edit import Edited, edit
from tests.unit.test_external import KV_F32, prompt

VECTORS = Path(__file__).parents[1] / "vectors"
BASE = 4096  # files begin at its multiples


# ---- loading


class Shards:
    """realm_shard records over bytes; `given` leading bytes of each."""

    def __init__(self, files: list[bytes], given: list[int] | None = None) -> None:
        self.files = files
        self.given = given or [len(f) for f in files]
        self.records = ffi.new("realm_shard[]", len(files))
        self.kept = []
        for record, data, size in zip(self.records, files, self.given, strict=True):
            self.kept.append(ffi.new("uint64_t[]", size // 8 + 1))
            ffi.memmove(self.kept[-1], data[:size], size)
            record.data, record.size, record.file_size = self.kept[-1], size, len(data)

    def needed(self) -> list[int]:
        return [int(record.needed) for record in self.records]

    def whole(self) -> bytes:
        """The model's bytes, as the bases say."""
        out = b""
        for record, data in zip(self.records, self.files, strict=True):
            out = out.ljust(record.base, b"\0") + data
        return out


def begin(rt: Runtime, shards: Shards, name: str = "realm_loader_begin_header", **options: int) -> Any:
    vars(rt).setdefault("kept", []).append(shards)  # the model points into their bytes
    loader = ffi.new("realm_loader **")
    settings = ffi.new("realm_model_options *", {"kv_type": KV_F32, **options})
    check(
        getattr(rt.lib, name)(rt.handle, shards.records, len(shards.files), settings, loader, rt.err), rt.err
    )
    return loader[0]


def finish(rt: Runtime, loader: Any) -> Any:
    progress, model = ffi.new("float *"), ffi.new("realm_model **")
    while progress[0] < 1.0:
        status = rt.lib.realm_loader_step(loader, progress, rt.err)
        if status != 0:
            rt.lib.realm_loader_abandon(loader)
            check(status, rt.err)
    check(rt.lib.realm_loader_finish(loader, model, rt.err), rt.err)
    return model[0]


def wants(loader: Any) -> tuple[int, int]:
    offset, size = ffi.new("uint64_t *"), ffi.new("uint64_t *")
    library().realm_loader_wants(loader, offset, size)
    return int(offset[0]), int(size[0])


def directory_bytes(rt: Runtime, data: bytes) -> int:
    """How many leading bytes the core asks for, found by asking again and again."""
    size = 8
    for _ in range(2000):
        shards = Shards([data], [size])
        try:
            loader = begin(rt, shards, mode=2)
        except CoreError:
            assert size < shards.needed()[0] <= len(data)
            size = shards.needed()[0]
        else:
            rt.lib.realm_loader_abandon(loader)
            return size
    raise AssertionError("the core never had enough")


# ---- directories alone


@pytest.fixture(scope="module")
def rt() -> Any:
    with plan_executor.Runtime() as opened:
        yield opened


def logits(rt: plan_executor.Runtime, model: Any, data: bytes, tokens: list[int]) -> Any:
    rt.attach(model, data)
    ctx = Context(rt, model)
    made = ctx.forward_logits(ctx.open(kv_type=KV_F32), tokens)
    ctx.close()
    rt.close_model(model)
    return made


@pytest.mark.parametrize("name", ["llama3", "qwen2", "gemma2"])
def test_a_model_from_its_directory(rt: plan_executor.Runtime, name: str) -> None:
    path = VECTORS / f"model-{name}.gguf"
    data = path.read_bytes()
    need = directory_bytes(rt, data)
    assert need < len(data) - 1000
    loader = begin(rt, Shards([data], [need]))
    offset, size = wants(loader)
    if size:  # llama3 has rope factors
        assert rt.lib.realm_loader_supply(loader, data[offset : offset + size], size, rt.err) == 0
    assert (size > 0) == (name == "llama3") and wants(loader) == (0, 0)
    model = finish(rt, loader)
    whole = rt.load(path, kv_type=KV_F32)
    tokens = prompt(12, 1)
    np.testing.assert_array_equal(logits(rt, model, data, tokens), logits(rt, whole, data, tokens))


def test_the_rope_factors_have_to_come_first(rt: plan_executor.Runtime) -> None:
    data = (VECTORS / "model-llama3.gguf").read_bytes()
    need = directory_bytes(rt, data)
    loader = begin(rt, Shards([data], [need]))
    assert rt.lib.realm_loader_supply(loader, b"1234", 4, rt.err) != 0
    with pytest.raises(CoreError, match="wants bytes"):
        finish(rt, loader)


def test_weights_are_no_host_tensors_then(rt: plan_executor.Runtime) -> None:
    data = (VECTORS / "model-qwen2.gguf").read_bytes()
    model = finish(rt, begin(rt, Shards([data], [directory_bytes(rt, data)])))
    ctx = Context(rt, model)
    with pytest.raises(CoreError, match="not in the core's memory") as caught:
        ctx.weight("blk.0.attn_q.weight")
    assert caught.value.code == "unsupported"
    ctx.close()
    rt.close_model(model)


def test_the_cpu_executor_needs_the_weights() -> None:
    data = (VECTORS / "model-qwen2.gguf").read_bytes()
    with Runtime(threads=1) as cpu, pytest.raises(CoreError, match="needs the weights"):
        finish(cpu, begin(cpu, Shards([data])))


def test_every_cut_of_a_directory_is_noticed(rt: plan_executor.Runtime) -> None:
    """Each shorter head either asks for more than it has, or is complete."""
    data = (VECTORS / "tokenizer-spm.gguf").read_bytes()
    complete = directory_bytes(rt, data)
    for size in [*range(0, 200), *range(200, complete, 97)]:
        shards = Shards([data], [size])
        with pytest.raises(CoreError) as caught:
            begin(rt, shards, mode=2)
        assert caught.value.code == "invalid-gguf" and size < shards.needed()[0] <= complete


@pytest.mark.parametrize("count", [1 << 40, 1 << 62])
def test_a_head_that_claims_too_much(rt: plan_executor.Runtime, count: int) -> None:
    """More keys than the file can hold are an error at once, not a request for more bytes."""
    head = b"GGUF" + (3).to_bytes(4, "little") + (0).to_bytes(8, "little") + count.to_bytes(8, "little")
    shards = Shards([head + bytes(1000)], [24])
    with pytest.raises(CoreError, match="more than the file can hold"):
        begin(rt, shards)
    assert shards.needed() == [0]


# ---- models in several files


def split(name: str, parts: int) -> list[Edited]:
    """As llama.cpp's gguf-split does it: tensors dealt out in order, metadata in the first file only."""
    whole = edit(name)
    names = list(whole.tensors)
    per_part = -(-len(names) // parts)
    made = []
    for number in range(parts):
        part = copy.deepcopy(whole)
        chosen = names[number * per_part : (number + 1) * per_part]
        part.tensors = {n: t for n, t in part.tensors.items() if n in chosen}
        if number > 0:
            part.values = {}
        part.set("split.no", g.U16, number)
        part.set("split.count", g.U16, parts)
        part.set("split.tensors.count", g.I32, len(names))
        made.append(part)
    return made


def built(parts: list[Edited]) -> list[bytes]:
    return [part.build() for part in parts]


@pytest.mark.parametrize("parts", [2, 3, 7])
@pytest.mark.parametrize("turn", [0, 1])
def test_a_split_model_in_any_order(rt: plan_executor.Runtime, parts: int, turn: int) -> None:
    files = built(split("model-gemma2.gguf", parts))
    shards = Shards(files[turn:] + files[:turn])
    model = finish(rt, begin(rt, shards))
    assert [record.base % BASE for record in shards.records] == [0] * parts
    path = VECTORS / "model-gemma2.gguf"
    tokens = prompt(12, 2)
    made = logits(rt, model, shards.whole(), tokens)
    np.testing.assert_array_equal(made, logits(rt, rt.load(path, kv_type=KV_F32), path.read_bytes(), tokens))


def test_a_split_model_in_memory_on_the_cpu() -> None:
    """The bytes after the directories come after the model was loaded."""
    files = built(split("model-llama3.gguf", 3))
    path = VECTORS / "model-llama3.gguf"
    with Runtime(threads=1, features=1) as cpu:
        bases, end = [], 0
        for data in files:
            bases.append(-(-end // BASE) * BASE)
            end = bases[-1] + len(data)
        memory = ffi.new("uint64_t[]", end // 8 + 1)
        at = ffi.cast("char *", memory)
        shards = Shards(files, [directory_bytes(cpu, data) for data in files])
        for record, base, data in zip(shards.records, bases, files, strict=True):
            ffi.memmove(at + base, data[: record.size], record.size)
            record.data = at + base
        loader = begin(cpu, shards, "realm_loader_begin_shards")
        assert [record.base for record in shards.records] == bases
        offset, size = wants(loader)
        assert cpu.lib.realm_loader_supply(loader, shards.whole()[offset : offset + size], size, cpu.err) == 0
        model = finish(cpu, loader)
        ffi.memmove(at, shards.whole(), end)
        results = []
        for one in (model, cpu.load(path, kv_type=KV_F32)):
            ctx = Context(cpu, one)
            results.append(ctx.forward_logits(ctx.open(kv_type=KV_F32), prompt(12, 3)))
            assert ctx.read(ctx.weight("blk.1.ffn_norm.weight")).any()
            ctx.close()
            cpu.close_model(one)
        np.testing.assert_array_equal(results[0], results[1])


def drop_a_tensor(parts: list[Edited]) -> None:
    parts[1].tensors.popitem()


def repeat_a_tensor(parts: list[Edited]) -> None:
    name, tensor = next(iter(parts[0].tensors.items()))
    parts[1].tensors.popitem()
    parts[1].tensors[name] = tensor


def same_part_twice(parts: list[Edited]) -> None:
    parts[2] = parts[1]


def number_too_high(parts: list[Edited]) -> None:
    parts[1].set("split.no", g.U16, 3)


def other_count(parts: list[Edited]) -> None:
    parts[1].set("split.count", g.U16, 4)


def one_missing(parts: list[Edited]) -> None:
    parts.pop()


def no_split_keys(parts: list[Edited]) -> None:
    parts[1].remove("split.no")
    parts[1].remove("split.count")


def negative_number(parts: list[Edited]) -> None:
    parts[1].set("split.no", g.I32, -1)


def counts_disagree(parts: list[Edited]) -> None:
    parts[1].set("split.tensors.count", g.I32, 5)


def another_architecture(parts: list[Edited]) -> None:
    parts[1].values["general.architecture"] = edit("model-qwen2.gguf").values["general.architecture"]


def first_without_metadata(parts: list[Edited]) -> None:
    parts[0].values = {k: v for k, v in parts[0].values.items() if k.startswith("split.")}


def dropped_and_uncounted(parts: list[Edited]) -> None:
    parts[1].tensors.popitem()
    for part in parts:
        part.remove("split.tensors.count")


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        (drop_a_tensor, "split.tensors.count says"),
        (repeat_a_tensor, "is in two of the files"),
        (same_part_twice, "two of the files are part 1"),
        (number_too_high, "split.no is 3 in a model of 3"),
        (other_count, "belongs to a model of 4"),
        (one_missing, "belongs to a model of 3"),
        (no_split_keys, "belongs to a model of 1"),
        (negative_number, "split.no"),
        (counts_disagree, "disagree on split.tensors.count"),
        (another_architecture, "of different models"),
        (first_without_metadata, "the file has none"),
        (dropped_and_uncounted, "is missing"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_files_that_do_not_fit(
    rt: plan_executor.Runtime, lie: Callable[[list[Edited]], None], message: str
) -> None:
    parts = split("model-gemma2.gguf", 3)
    lie(parts)
    with pytest.raises(CoreError, match=message) as caught:
        finish(rt, begin(rt, Shards(built(parts))))
    assert caught.value.code.startswith("invalid-") or caught.value.code == "unsupported-architecture"


def test_one_part_alone_is_refused(rt: plan_executor.Runtime) -> None:
    with pytest.raises(CoreError, match="one of 3 parts") as caught:
        finish(rt, begin(rt, Shards(built(split("model-gemma2.gguf", 3)[:1]))))
    assert caught.value.code == "unsupported"


def test_sizes_that_cannot_be(rt: plan_executor.Runtime) -> None:
    data = (VECTORS / "model-qwen2.gguf").read_bytes()
    for change in ({"file_size": 100}, {"file_size": 1 << 63}):
        shards = Shards([data])
        for name, value in change.items():
            setattr(shards.records[0], name, value)
        with pytest.raises(CoreError) as caught:
            begin(rt, shards)
        assert caught.value.code == "invalid-argument"
    with pytest.raises(CoreError, match="1 to 1024 files"):
        begin(rt, Shards([]))
