"""A file of 5 GB, chosen in a page, on its way to a GPU of WebGPU's default limits: no buffer is too large,
every byte of the weights arrives where it belongs, and nothing of them stays in the page's memory.

The file is sparse and the GPU only counts (counting_gpu.js), so neither disk nor memory for it is needed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import pytest
from playwright.sync_api import Page

from realm_build import node
from realm_build.site import Site
from tests.bench import make_models
from tests.web.memory import Memory

HUGE = make_models.Shape(layers=2, width=8192, ff=34816, heads=64, heads_kv=8)
MOST_BINDING = 128 << 20
MOST_HELD_MIB = 400  # by all processes of the browser, above the beginning
LOAD_MS = 100_000
TILES = 4  # shapes that matrix products of different batches use
PAGE = """<!doctype html><title>Test</title><input type="file"><script type="module">
import { Realm } from './realm/realm.mjs';
globalThis.load = async () => {
  const realm = new Realm({ backend: 'webgpu' });
  await realm.loadModel(document.querySelector('input').files[0]);
  const channel = new BroadcastChannel('counting-gpu');
  const answer = new Promise((resolve) => (channel.onmessage = ({ data }) => resolve(data)));
  channel.postMessage('tell');
  const { buffers: made, pipelines } = await answer;
  const buffers = made.map((buffer) => ({ ...buffer, head: [...buffer.head] }));
  realm.dispose();
  return { buffers, pipelines };
};</script>"""


@dataclass(frozen=True)
class Part:
    """Rows of a weight that one binding can hold; they begin with a number of their own in the file."""

    number: int
    size: int

    @property
    def head(self) -> list[int]:
        return list(self.number.to_bytes(16, "little"))


def all_f16(name: str, layer: int, layers: int) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType.F16


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[Part]]]:
    """Holes are read fastest from a file system in memory."""
    in_memory = Path("/dev/shm")
    folder = in_memory if os.access(in_memory, os.W_OK) else tmp_path_factory.mktemp("models")
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".gguf") as file:
        path = Path(file.name)
        yield path, number_parts(path, make_models.write_sparse_model(path, HUGE, all_f16))


def number_parts(path: Path, start: int) -> list[Part]:
    parts: list[Part] = []
    with path.open("r+b") as file:
        for _, kind, rows, length in make_models.tensors(HUGE, all_f16):
            size = make_models.tensor_bytes(kind, rows, length)
            most = MOST_BINDING // (size // rows) * (size // rows)  # whole rows
            for offset in range(0, size, most):
                parts.append(Part(1000 + len(parts), min(most, size - offset)))
                file.seek(start + offset)
                file.write(bytes(parts[-1].head))
            start += size
    return parts


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    realm = tmp_path / "realm"
    realm.mkdir()
    for file in node.WEB_DIST.iterdir():
        (realm / file.name).write_bytes(file.read_bytes())
    counting = (Path(__file__).parent / "counting_gpu.js").read_bytes()
    (realm / "worker.js").write_bytes(counting + (node.WEB_DIST / "worker.js").read_bytes())
    (tmp_path / "index.html").write_text(PAGE)
    with Site({"/": tmp_path}) as running:
        yield running


def test_five_gigabytes(page: Page, site: Site, huge: tuple[Path, list[Part]]) -> None:
    path, parts = huge
    assert path.stat().st_size > 5e9
    page.set_default_timeout(LOAD_MS)
    page.goto(site.url)
    page.wait_for_function("globalThis.load !== undefined")
    page.set_input_files("input", path)
    with Memory(os.getpid()) as memory:
        found: dict[str, Any] = page.evaluate("load()")
    buffers = found["buffers"]
    largest = max(buffer["size"] for buffer in buffers)
    print(
        f"{len(buffers)} buffers, largest {largest >> 20} MiB, peak {memory.peak_mib:.0f} MiB of the browser"
    )
    assert largest <= MOST_BINDING
    weights = {tuple(buffer["head"]): buffer for buffer in buffers if buffer["label"].startswith("weight")}
    assert len(weights) == len(parts)
    for part in parts:
        buffer = weights[tuple(part.head)]
        assert buffer["size"] == buffer["written"] == part.size
    assert memory.peak_mib < MOST_HELD_MIB
    prepared = found["pipelines"]["prepared"]  # so that the first token waits for no compiler
    assert not found["pipelines"]["late"]
    assert sum(label.startswith("matmul f16") for label in prepared) == TILES
    assert {"matvec f16", "embed f16"} <= {" ".join(label.split()[:2]) for label in prepared}
    assert any(label.startswith("attention ") for label in prepared)
