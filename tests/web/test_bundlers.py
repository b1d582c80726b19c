"""The packed npm package in other people's bundles: the example as its users build it, with each of the
tools, answers in a page of a server without special headers.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from realm_build import node, node_package
from realm_build.paths import NODE_MODULES, ROOT
from realm_build.site import Site

EXAMPLE = ROOT / "examples" / "browser" / "bundlers"
TOOLS = ("vite", "webpack", "esbuild")
ANSWER_MS = 60_000


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with what `npm install` would bring: the tarball's files, and the pinned tools."""
    folder = tmp_path_factory.mktemp("example") / "page"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules", "dist"))
    [tarball] = node_package.pack([], tmp_path_factory.mktemp("packed"))
    modules = folder / "node_modules"
    with tarfile.open(tarball) as packed:
        packed.extractall(modules)  # packed by ourselves; Debian 12 has no filters yet
    (modules / "@realm-ai").mkdir()
    (modules / "package").rename(modules / "@realm-ai" / "sdk")
    for tool in TOOLS:
        (modules / tool).symlink_to(NODE_MODULES / tool, target_is_directory=True)
    return folder


@pytest.fixture(scope="module", params=TOOLS)
def site(request: pytest.FixtureRequest, example: Path) -> Iterator[Site]:
    node.run_node(["build.mjs", request.param], example)
    with Site({"/": example / "dist" / request.param}, isolated=False) as running:
        yield running


def test_a_bundle_answers(page: Page, site: Site) -> None:
    page.goto(site.url)
    expect(page.locator("#answer")).to_have_text("The capital of France is Paris.", timeout=ANSWER_MS)


def test_a_bundle_holds_no_second_copy(example: Path, site: Site) -> None:
    """Weights and WebAssembly come along as files; nothing of the Node host does."""
    [folder] = site.folders.values()
    files = [path for path in folder.rglob("*") if path.is_file()]
    scripts = [path for path in files if path.suffix in (".js", ".mjs")]
    assert not [path.name for path in files if path.suffix == ".node"]
    assert sum(path.suffix == ".gguf" for path in files) == 1
    assert all(os.path.getsize(path) < 500_000 for path in scripts)
