"""`check`: everything about the sources that can be said without running them.

Each check returns the text of what is wrong, or None; all run, so that one start shows all complaints.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from . import guest, native, node, toolchain
from .paths import ROOT, BuildError

MAX_FILE_BYTES = 4 << 20

# A lock file or a manifest must name packages, not where one machine fetched them.
REGISTRY_ADDRESSES = (
    r"https?://[^ \"']+\.(?:tgz|whl|tar\.gz|deb)\b",
    r"registry\.npmjs\.org",
    r"pypi\.org/simple",
    r"files\.pythonhosted\.org",
)


def main() -> int:
    failed = [name for name, check in CHECKS.items() if not passes(name, check)]
    print(
        f"{len(CHECKS) - len(failed)} passed, {len(failed)} failed"
        + (f": {', '.join(failed)}" if failed else "")
    )
    return 1 if failed else 0


def passes(name: str, check: Callable[[], str | None]) -> bool:
    try:
        complaint = check()
    except BuildError as error:
        complaint = str(error)
    print(f"[check] {name}: {'ok' if complaint is None else 'FAILED'}", flush=True)
    if complaint is not None:
        print(complaint, flush=True)
    return complaint is None


# ---- the checks ----


def formatted() -> str | None:
    return tool("ruff", "format", "--check", "--quiet", ".") and tool("ruff", "format", "--check", ".")


def linted() -> str | None:
    return tool("ruff", "check", "--quiet", ".")


def typed() -> str | None:
    return tool("mypy")


def typed_typescript() -> str | None:
    return node.typecheck()


def generated() -> str | None:
    from . import gen

    return "run: python3 -m realm_build gen" if gen.main(check=True) else None


def layered() -> str | None:
    return tool("pytest", "-q", "--no-header", "tests/unit/test_layering.py")


def compiles() -> str | None:
    """The warnings are errors in every build, so building is the check."""
    native.install_library()
    guest.install_guest()
    node.addon(toolchain.host_target())
    return None


def clean_files() -> str | None:
    complaints = [complaint for path in tracked_files() for complaint in file_complaints(path)]
    return "\n".join(complaints) or None


# ---- helpers ----


def tool(name: str, *arguments: str) -> str | None:
    """Runs a Python tool of the environment; returns its output when it fails."""
    done = subprocess.run(
        [sys.executable, "-m", name, *arguments],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    return done.stdout.decode(errors="replace").strip() or f"{name} failed" if done.returncode else None


def tracked_files() -> list[Path]:
    """What git would hand to somebody else: tracked files and new ones that are not ignored."""
    command = [
        "git",
        "-c",
        f"safe.directory={ROOT}",
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if listed.returncode != 0:
        return []  # a source archive: what it holds was checked where it was made
    names = listed.stdout.decode().split("\0")
    return [path for name in names if name and (path := ROOT / name).is_file()]


def file_complaints(path: Path) -> list[str]:
    name = path.relative_to(ROOT).as_posix()
    content = path.read_bytes()
    if len(content) > MAX_FILE_BYTES:
        return [f"{name}: {len(content)} bytes, more than {MAX_FILE_BYTES}"]
    if b"\0" in content[:8192]:
        return []
    text = content.decode(errors="replace")
    return [f"{name}:{line}: {what}" for line, what in forbidden_words(text)]


def forbidden_words(text: str) -> list[tuple[int, str]]:
    """Line numbers and names of what belongs to one machine and not into the repository."""
    return [
        (text.count("\n", 0, match.start()) + 1, what)
        for what, pattern in forbidden_patterns()
        for match in pattern.finditer(text)
    ]


def forbidden_patterns() -> list[tuple[str, re.Pattern[str]]]:
    patterns = [("address of a package registry", re.compile(address)) for address in REGISTRY_ADDRESSES]
    home = Path.home()
    if ROOT.parent not in (Path("/"), home, home.parent):
        beside = re.escape(ROOT.parent.as_posix())
        patterns.append(("path of this machine", re.compile(rf"(?<![\w.]){beside}/")))
    return patterns


CHECKS: dict[str, Callable[[], str | None]] = {
    "format": formatted,
    "lint": linted,
    "types": typed,
    "types of TypeScript": typed_typescript,
    "generated files": generated,
    "dependency direction": layered,
    "compile without warnings": compiles,
    "files": clean_files,
}
