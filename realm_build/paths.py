"""Where things stand in the checkout (or in an unpacked source archive): every other module asks here.

Compilers run with ROOT as working directory and get paths relative to it, so that no path of the
machine ends up in a binary.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
VENV = BUILD / "venv"
REQUIREMENTS = ROOT / "realm_build" / "requirements.txt"

PACKAGE = ROOT / "host_python" / "realm"
NATIVE = PACKAGE / "_native"
NODE = ROOT / "node"
NODE_MODULES = NODE / "node_modules"
DEMO_MODEL = ROOT / "demo_model" / "realm-demo.gguf"


class BuildError(Exception):
    """Something the developer has to mend; the message is all that is shown of it."""


def relative(path: Path) -> str:
    """The path as compilers and messages see it: relative to ROOT, with forward slashes."""
    try:
        return path.relative_to(ROOT).as_posix()
    except ValueError:
        return path.as_posix()


def sources(*patterns: str) -> list[Path]:
    """All files below ROOT that match one of the patterns, sorted, so that builds are reproducible."""
    return sorted({path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()})
