"""One build step = one command and its output, done again only when something it read has changed.

A step is current when its stamp (beside the output) holds the digest of the command and of the content
of every file read: the named inputs and, for compilers, the headers of the depfile. Content instead of
modification times, because a fresh checkout or a touched file should not compile anything again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .paths import ROOT, BuildError, relative
from .toolchain import compiler_environment


@dataclass(frozen=True)
class Step:
    label: str  # "cc core/gguf.c", what the developer sees
    output: Path
    command: tuple[str, ...]
    inputs: tuple[Path, ...]
    version: str = ""  # of the compiler
    depfile: Path | None = None  # written by the command, in make's syntax


def run_steps(steps: Iterable[Step]) -> int:
    """Runs the steps that are not current, in parallel; returns how many ran. All failures are reported."""
    stale = [step for step in steps if not is_current(step)]
    failures: list[str] = []
    lock = threading.Lock()

    def one(step: Step) -> None:
        error = run_step(step)
        with lock:
            print(f"[build] {step.label}", flush=True)
            if error:
                failures.append(error)

    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        list(pool.map(one, stale))
    if failures:
        raise BuildError("\n".join(failures))
    return len(stale)


def run_step(step: Step) -> str | None:
    """Runs one step and stamps it; returns the compiler's message when it fails."""
    step.output.parent.mkdir(parents=True, exist_ok=True)
    stamp_path(step).unlink(missing_ok=True)
    done = subprocess.run(
        step.command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=compiler_environment(),
        check=False,
    )
    if done.returncode != 0:
        return f"{shlex.join(step.command)}\n{done.stdout.decode(errors='replace')}"
    files = [*step.inputs, *(parse_depfile(step.depfile.read_text()) if step.depfile else [])]
    names = sorted({relative(ROOT / file) for file in files})
    stamp_path(step).write_text(json.dumps({"digest": digest(step, names), "files": names}))
    return None


def is_current(step: Step) -> bool:
    try:
        stamp = json.loads(stamp_path(step).read_text())
        names = stamp["files"]
        known = all(relative(file) in names for file in step.inputs)
        return step.output.exists() and known and stamp["digest"] == digest(step, names)
    except (OSError, ValueError, KeyError):
        return False  # no stamp, or a file it names is gone


def stamp_path(step: Step) -> Path:
    return step.output.with_name(step.output.name + ".stamp")


def digest(step: Step, names: Sequence[str]) -> str:
    whole = hashlib.sha256(json.dumps([step.version, *step.command]).encode())
    for name in names:
        content = hashlib.sha256((ROOT / name).read_bytes()).hexdigest()
        whole.update(f"{name} {content}\n".encode())
    return whole.hexdigest()


def parse_depfile(text: str) -> list[Path]:
    """The prerequisites of a depfile `out: a.c b.h \\`; make writes a space in a name as `\\ `."""
    _, _, tail = text.replace("\\\n", " ").partition(": ")
    words = tail.replace("\\ ", "\0").split()
    return [Path(word.replace("\0", " ")) for word in words if not word.endswith(":")]
