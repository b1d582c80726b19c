"""`package` for npm: tarballs of the main package and of one package for each platform, in `dist/`.

A platform package is one file, `realm.node`, and npm itself chooses it at installation (`os`, `cpu`, `libc`).
The main package names them as optional dependencies of exactly its version; that is written only into the
packed manifest, because a lock file that names unpublished packages could not be installed from.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import node
from .paths import BUILD, NODE, ROOT, relative
from .toolchain import TARGETS, Target, host_target

STAGE = BUILD / "npm"
DIST = ROOT / "dist"
NOT_PUBLISHED = ("devDependencies", "scripts")

Manifest = dict[str, Any]


def pack(targets: Sequence[Target], output: Path = DIST) -> list[Path]:
    """Makes the tarballs of these platforms and the main one; returns them, the main one first."""
    output.mkdir(parents=True, exist_ok=True)
    node.build_dist()
    packed = [pack_folder(stage_main(), output)]
    return packed + [pack_folder(stage_platform(target), output) for target in targets]


def stage_main() -> Path:
    folder = fresh_folder("sdk")
    shutil.copytree(NODE / "dist", folder / "dist", ignore=shutil.ignore_patterns("*.stamp"))
    shutil.copyfile(NODE / "README.md", folder / "README.md")
    shutil.copyfile(ROOT / "LICENSE", folder / "LICENSE")
    write_manifest(folder, published(source_manifest()))
    return folder


def published(source: Mapping[str, Any]) -> Manifest:
    """The manifest as users get it: without the developer's part, with the platform packages."""
    kept = {key: value for key, value in source.items() if key not in NOT_PUBLISHED}
    platforms = {platform_name(source, target): source["version"] for target in TARGETS.values()}
    return {**kept, "optionalDependencies": dict(sorted(platforms.items()))}


def stage_platform(target: Target) -> Path:
    folder = fresh_folder(target.npm)
    shutil.copyfile(node.addon(target), folder / "realm.node")
    shutil.copyfile(ROOT / "LICENSE", folder / "LICENSE")
    write_manifest(folder, platform_manifest(source_manifest(), target))
    return folder


def platform_manifest(source: Mapping[str, Any], target: Target) -> Manifest:
    """The platform's npm name is its conditions: linux-x64-gnu is os, cpu and the C library."""
    system, cpu, *library = target.npm.split("-")
    libc = {"libc": ["glibc" if library == ["gnu"] else "musl"]} if library else {}
    return {
        "name": platform_name(source, target),
        "version": source["version"],
        "description": f"The native part of {source['name']} for {target.npm}.",
        "license": source["license"],
        "engines": source["engines"],
        "os": [system],
        "cpu": [cpu],
        **libc,
        "main": "realm.node",
        "files": ["realm.node"],
    }


def platform_name(source: Mapping[str, Any], target: Target) -> str:
    return f"{source['name']}-{target.npm}"


def source_manifest() -> Manifest:
    manifest: Manifest = json.loads((NODE / "package.json").read_text())
    return manifest


# ---- folders and files ----


def fresh_folder(name: str) -> Path:
    folder = STAGE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def write_manifest(folder: Path, manifest: Manifest) -> None:
    (folder / "package.json").write_text(json.dumps(manifest, indent=2) + "\n")


def pack_folder(folder: Path, output: Path) -> Path:
    [done] = json.loads(node.run_npm(["pack", "--json", f"--pack-destination={output}"], folder))
    tarball = output / str(done["filename"])
    packed, installed = done["size"] / 1e6, done["unpackedSize"] / 1e6
    print(f"[package] {relative(tarball)}: {packed:.2f} MB, installed {installed:.2f} MB", flush=True)
    return tarball


def main() -> int:
    """For the test of the tarballs: packs this machine's two and prints their paths, one a line."""
    node.install_tools()
    output = BUILD / "npm-test"
    shutil.rmtree(output, ignore_errors=True)
    print(*pack([host_target()], output), sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
