"""The JavaScript platform over core.wasm, in Node: builds what tests/wasm needs and runs it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from realm_build import node, wasm
from tests.bench.make_models import Shape, all_q8_0, write_model

ROOT = Path(__file__).resolve().parents[2]
WIDE = Shape(layers=2, width=2048, ff=5632, heads=32, heads_kv=4)  # ops as long as those of a 1.1B model
TIMEOUT_SECONDS = 300


def test_platform(tmp_path: Path) -> None:
    node.install_tools()
    wasm.build()
    model = tmp_path / "wide.gguf"
    write_model(model, WIDE, all_q8_0)
    command = [str(node.node()), "--test", "--test-reporter=tap", "tests/wasm/platform.test.mjs"]
    environment = {**os.environ, "WIDE_MODEL": str(model)}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "# fail 0" in done.stdout
