"""The WebGPU executor under a native core: batches go to a Node process as blocks, results come back.

It takes the place of plan_executor.Executor, so the same tests run on both.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from realm._generated import records as r
from realm._library import ffi

from realm_build import node, software_gpu
from realm_build.paths import BUILD, NODE_MODULES, ROOT, relative
from tests.unit import plan_executor
from tests.unit.plan_executor import Plan, memory

RUNNER = BUILD / "gpu" / "executor_runner.mjs"
ARRAYS = {  # of a batch: element type, and the field that counts
    "tokens": ("<u4", "n_rows"),
    "positions": ("<u4", "n_rows"),
    "kv_slots": ("<u4", "n_rows"),
    "row_segments": ("<u4", "n_rows"),
    "out_rows": ("<u4", "n_out"),
    "segments": (r.BATCH_SEGMENT, "n_segments"),
    "pages": ("<u4", "n_pages"),
    "page_ops": (r.PAGE_OP, "n_page_ops"),
}


class ExecutorError(Exception):
    def __init__(self, code: str | None, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Process:
    """Node with an executor on one adapter. `wanted` goes to openDevice."""

    def __init__(self, adapter: str, wanted: Mapping[str, Any] | None = None) -> None:
        added = {**software_gpu.environment(adapter), "REALM_DAWN": software_gpu.DAWN.as_uri()}
        command = [str(node.node()), bundle(), json.dumps(wanted or {})]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **added}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._receive()

    def ask(self, header: dict[str, Any], *arrays: bytes) -> tuple[dict[str, Any], list[bytes]]:
        assert self._process.stdin is not None
        text = json.dumps({**header, "sizes": [len(a) for a in arrays]}).encode()
        self._process.stdin.write(b"".join((struct.pack("<I", len(text)), text, *arrays)))
        self._process.stdin.flush()
        return self._receive()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)

    def _receive(self) -> tuple[dict[str, Any], list[bytes]]:
        [length] = struct.unpack("<I", self._read(4))
        header = json.loads(self._read(length))
        if "error" in header:
            raise ExecutorError(header["code"], header["error"])
        return header, [self._read(size) for size in header["sizes"]]

    def _read(self, size: int) -> bytes:
        assert self._process.stdout is not None
        data = self._process.stdout.read(size)
        if len(data) < size:
            raise ExecutorError(None, f"the runner ended with status {self._process.wait()}")
        return data


def bundle() -> str:
    node.install_tools()
    tool = relative(NODE_MODULES / "esbuild" / "bin" / "esbuild")
    options = ["--bundle", "--platform=node", "--format=esm", "--loader:.wgsl=text", "--log-level=warning"]
    node.run_node([tool, *options, f"--outfile={relative(RUNNER)}", "tests/gpu/executor_runner.mjs"], ROOT)
    return str(RUNNER)


class GpuExecutor:
    """One model in the process."""

    def __init__(
        self, process: Process, plan: Plan, block: bytes, data: bytes, shards: Sequence[Any] = ()
    ) -> None:
        self.process, self.plan = process, plan
        shards = shards or [{"base": 0, "size": len(data)}]
        made, _ = process.ask({"kind": "model", "shards": shards}, block, data)
        assert made["progress"] == 1
        self.bytes = made["bytes"]

    def close(self) -> None:
        self.process.ask({"kind": "close", "model": int(self.plan.header["model"])})

    def run(self, batch: Any, wanted: bool = True) -> bool:
        block = Block(self.plan, batch)
        header, [data] = self.process.ask({"kind": "batch", "wanted": wanted}, block.data())
        if header["computed"]:
            block.take_results(data)
        return bool(header["computed"])


class Block:
    """A batch's record and arrays as one block; where the results will lie in it."""

    def __init__(self, plan: Plan, batch: Any) -> None:
        self.plan, self.batch = plan, batch
        self.record = np.array([batch])
        self.parts: list[bytes] = [b""]
        self.size = r.BATCH.itemsize
        self.results: list[tuple[int, int, int]] = []  # address in the core, offset in the block, size
        for name, (dtype, count) in ARRAYS.items():
            array = memory(batch[name], dtype, int(batch[count])).copy()
            if name == "segments":
                self.place_hidden(array)
            self.record[name] = self.append(array.tobytes())
        logits = int(batch["n_out"]) * int(plan.header["vocab_size"]) * 4
        self.record["logits"] = self.place_result(int(batch["logits"]), logits)

    def append(self, data: bytes) -> int:
        offset = self.size
        self.parts.append(data + bytes(-len(data) % 8))
        self.size += len(self.parts[-1])
        return offset

    def place_result(self, address: int, size: int) -> int:
        at = self.append(bytes(ffi.buffer(ffi.cast("char *", address), size)) if size else b"")
        self.results.append((address, at, size))
        return at

    def place_hidden(self, segments: Any) -> None:
        width = int(self.plan.header["embedding_length"]) * 4
        for segment in segments:
            if segment["hidden"]:
                rows = int(segment["n_rows"])
                segment["hidden"] = self.place_result(int(segment["hidden"]), rows * width)

    def data(self) -> bytes:
        return self.record.tobytes() + b"".join(self.parts)

    def take_results(self, data: bytes) -> None:
        for address, at, size in self.results:
            if size:
                ffi.memmove(ffi.cast("char *", address), data[at : at + size], size)


class Runtime(plan_executor.Runtime):
    """A core whose batches the process computes."""

    def __init__(self, process: Process, **options: int) -> None:
        super().__init__(**options)
        self.process = process

    def attach(self, model: Any, data: bytes) -> Any:
        plan, block = Plan.of(model), plan_executor.plan_block(model)
        self.executors[int(plan.header["model"])] = GpuExecutor(self.process, plan, block, data)
        return self.executors[int(plan.header["model"])]
