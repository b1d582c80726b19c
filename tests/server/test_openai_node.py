"""The official Node client of OpenAI against a live server; what it finds is in openai_client.mjs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from realm_build import node
from tests.server.live import LiveServer

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def npm_folder() -> Path:
    node.install_locked(HERE / "npm")
    return HERE / "npm"


def test_the_node_client(server: LiveServer, npm_folder: Path) -> None:
    done = subprocess.run(
        [str(node.node()), str(npm_folder / "openai_client.mjs"), f"{server.url}/v1"],
        cwd=npm_folder, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "all well"
