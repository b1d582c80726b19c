"""`package`: npm tarballs, the source archive, wheels by the standard way (`python -m build` and the hook).

For this machine the wheel is made out of the source archive and tried in an environment of its own,
where no compiler can be reached; wheels of other platforms are cross-compiled from the checkout.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from . import node_package
from .bootstrap import base_python
from .paths import BUILD, DEMO_MODEL, ROOT, BuildError, relative
from .toolchain import TARGETS, Target, find_target, host_target

DIST = ROOT / "dist"


def main(names: Sequence[str] | None) -> int:
    if not DEMO_MODEL.exists():
        raise BuildError(f"{relative(DEMO_MODEL)} is missing: the wheel carries the demo model")
    host = host_target()
    targets = chosen_targets(names) or [host]
    for target in targets:
        wheel = build_host_wheel() if target == host else build_wheel(target)
        print(f"[package] {relative(wheel)}: {wheel.stat().st_size / 1e6:.1f} MB", flush=True)
        if target == host:
            try_wheel(wheel)
    node_package.pack(targets)
    return 0


def chosen_targets(names: Sequence[str] | None) -> list[Target]:
    return list(TARGETS.values()) if names == ["all"] else [find_target(name) for name in names or []]


def build_host_wheel() -> Path:
    """Archive first, then the wheel from the unpacked archive: so the archive is known to be complete."""
    build([])
    return newest_wheel(host_target())


def build_wheel(target: Target) -> Path:
    build(["--wheel"], {"REALM_BUILD_TARGET": target.name})
    return newest_wheel(target)


def build(options: Sequence[str], environment: dict[str, str] | None = None) -> None:
    """Without isolation, because this environment holds the pinned build requirements already."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(DIST), *options, str(ROOT)]
    done = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | (environment or {}), check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise BuildError(f"{' '.join(command)}\n{done.stdout.decode(errors='replace')}")


def newest_wheel(target: Target) -> Path:
    wheels = sorted(
        DIST.glob(f"realm_ai-*-py3-none-{target.wheel_tag}.whl"), key=lambda path: path.stat().st_mtime
    )
    if not wheels:
        raise BuildError(f"no wheel for {target.name} in {relative(DIST)}")
    return wheels[-1]


def try_wheel(wheel: Path) -> None:
    """Installs the wheel as a user would, with an empty PATH, and asks the demo question."""
    folder = BUILD / "wheel-test"
    shutil.rmtree(folder, ignore_errors=True)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    question = ["generate", "What is the capital of France?", "--max-tokens", "32", "--temperature", "0"]
    environment = {**os.environ, "PATH": ""}
    for command in (
        [base_python(), "-m", "venv", str(folder)],
        [
            str(scripts / "python"),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            str(wheel),
        ],
        [str(scripts / "realm"), *question],
    ):
        if (
            subprocess.run(
                command, stdin=subprocess.DEVNULL, env=environment, cwd=BUILD, check=False
            ).returncode
            != 0
        ):
            raise BuildError(f"the wheel does not work: {' '.join(command)}")
    shutil.rmtree(folder)
