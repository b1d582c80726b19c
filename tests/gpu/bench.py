"""Runs kernels on software GPUs for tests: a long-lived Node process per adapter, cases as frames over pipes.

A case is a list of calls of js/src/webgpu/kernels.ts over named arrays. Arrays given as NumPy arrays are
uploaded; those given as a size are allocated, full of NaN.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from realm_build import node, software_gpu
from realm_build.paths import BUILD, NODE_MODULES, ROOT, relative

RUNNER = BUILD / "gpu" / "runner.mjs"

Call = tuple[str, dict[str, Any]]


class GpuError(Exception):
    """What the runner answered instead of results; `code` is the RealmError's, if it was one."""

    def __init__(self, message: str, code: str | None) -> None:
        super().__init__(message)
        self.code = code


class Gpu:
    """One adapter's process. `wanted` goes to openDevice."""

    def __init__(self, adapter: str, wanted: Mapping[str, Any] | None = None) -> None:
        environment = {
            **os.environ,
            **software_gpu.environment(adapter),
            "REALM_DAWN": software_gpu.DAWN.as_uri(),
            "GALLIVM_PERF": "nopt",  # lavapipe: the tests' time is compilers' time
        }
        command = [str(node.node()), str(bundle()), json.dumps(wanted or {})]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.name = adapter
        self.device, _ = self._receive()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)

    def run(
        self,
        calls: Sequence[Call],
        arrays: Mapping[str, NDArray[Any] | int],
        *outputs: str,
        workgroups: int = 0,
    ) -> list[NDArray[np.float32]]:
        """Outputs come as flat f32. `workgroups`: taken for the device's limit per dimension."""
        given = {name: a for name, a in arrays.items() if not isinstance(a, int)}
        sizes = [
            {"name": name, "size": a if isinstance(a, int) else a.nbytes, "given": name in given}
            for name, a in arrays.items()
        ]
        listed = [{"op": op, "args": args} for op, args in calls]
        self._send(
            {"calls": listed, "arrays": sizes, "outputs": outputs, "workgroups": workgroups},
            [np.ascontiguousarray(a).tobytes() for a in given.values()],
        )
        header, results = self._receive()
        if "error" in header:
            raise GpuError(header["error"], header["code"])
        return [np.frombuffer(data, np.float32) for data in results]

    def _send(self, header: dict[str, Any], payload: Sequence[bytes]) -> None:
        assert self._process.stdin is not None
        text = json.dumps(header).encode()
        self._process.stdin.write(b"".join((struct.pack("<I", len(text)), text, *payload)))
        self._process.stdin.flush()

    def _receive(self) -> tuple[dict[str, Any], list[bytes]]:
        [length] = struct.unpack("<I", self._read(4))
        header = json.loads(self._read(length))
        return header, [self._read(size) for size in header["sizes"]]

    def _read(self, size: int) -> bytes:
        assert self._process.stdout is not None
        data = self._process.stdout.read(size)
        if len(data) < size:
            raise GpuError(f"the runner ended with status {self._process.wait()}", None)
        return data


def bundle() -> str:
    """The runner with the sources it tests, as one file."""
    node.install_tools()
    tool = relative(NODE_MODULES / "esbuild" / "bin" / "esbuild")
    options = ["--bundle", "--platform=node", "--format=esm", "--loader:.wgsl=text", "--log-level=warning"]
    node.run_node([tool, *options, f"--outfile={relative(RUNNER)}", "tests/gpu/runner.mjs"], ROOT)
    return str(RUNNER)
