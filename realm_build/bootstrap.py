"""From a bare machine to a virtual environment with pinned packages, in `build/venv`.

Needs only a Python 3.11 without pip, ensurepip or venv, as Debian ships it. As root, system packages
that are missing come from apt and are named before they are installed; any other user gets the one
command an administrator must run. A stamp over the pins makes every later start a single file read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from .paths import BUILD, REQUIREMENTS, ROOT, VENV, BuildError, relative

MINIMUM_PYTHON = (3, 11)
STAMP = VENV / "realm-stamp"


def enter(arguments: Sequence[str]) -> None:
    """Returns inside the virtual environment; outside, makes it and starts the same command again in it."""
    if sys.version_info < MINIMUM_PYTHON:
        wanted = ".".join(map(str, MINIMUM_PYTHON))
        raise BuildError(f"Python {wanted} or newer is needed, this is {sys.version.split()[0]}")
    inside = Path(sys.prefix).resolve() == VENV.resolve()
    if not is_ready():
        with locked():
            if not is_ready():
                make_environment()
    elif inside:
        return
    command = [str(venv_python()), "-m", "realm_build", *arguments]
    sys.stdout.flush()
    if os.name == "nt":  # exec on Windows detaches from the console
        raise SystemExit(subprocess.call(command, cwd=ROOT))
    os.chdir(ROOT)
    os.execv(command[0], command)


def is_ready() -> bool:
    try:
        return STAMP.read_text() == stamp() and venv_python().exists()
    except OSError:
        return False


def stamp() -> str:
    """Changes whenever the environment has to be made anew: other pins, another Python, a moved checkout."""
    text = REQUIREMENTS.read_text() + f"\n{sys.version_info[:2]} {ROOT}"
    return hashlib.sha256(text.encode()).hexdigest()


def only_pins_changed() -> bool:
    """Then the environment is of this Python and place, and pip can change it under those who use it."""
    try:
        lines = (VENV / "pyvenv.cfg").read_text().splitlines()
    except OSError:
        return False
    made = {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}
    here = made.get("command", "").endswith(f" {VENV}")
    return here and made.get("version") == sys.version.split()[0] and venv_python().exists()


def venv_python() -> Path:
    return VENV / "Scripts" / "python.exe" if os.name == "nt" else VENV / "bin" / "python"


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Two commands started at once must not make the same environment at once."""
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "bootstrap.lock").open("w") as lock:
        if os.name != "nt":
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# ---- the environment ----


def make_environment() -> None:
    if not has_ensurepip() and not has_outer_pip():
        install_packages({"python3-venv": "Python's venv and pip"})
    if only_pins_changed():
        say(f"bringing {relative(VENV)} up to {relative(REQUIREMENTS)}")
    else:
        say(f"making {relative(VENV)} with the packages of {relative(REQUIREMENTS)}")
        shutil.rmtree(VENV, ignore_errors=True)
        run([base_python(), "-m", "venv", *([] if has_ensurepip() else ["--without-pip"]), str(VENV)])
    pip_install("--requirement", str(REQUIREMENTS))
    add_source_path()
    STAMP.write_text(stamp())


def pip_install(*arguments: str) -> None:
    """Installs into the environment, with its own pip or the one outside."""
    inside = [str(venv_python()), "-m", "pip"]
    outside = [base_python(), "-m", "pip", "--python", str(venv_python())]
    pip = inside if has_ensurepip() else outside
    run([*pip, "install", "--quiet", "--disable-pip-version-check", *arguments])


def base_python() -> str:
    """The Python the environment is made from; never the one of an older environment."""
    return getattr(sys, "_base_executable", None) or sys.executable


def has_ensurepip() -> bool:
    """Debian may have `venv` without `ensurepip`, or that without its wheels: ask for the wheel itself."""
    return succeeds([base_python(), "-c", "import venv, ensurepip; ensurepip.version()"])


def has_outer_pip() -> bool:
    """`pip --python` came with pip 22.3."""
    return succeeds(
        [base_python(), "-c", "import venv, pip; assert int(pip.__version__.split('.')[0]) >= 23"]
    )


def add_source_path() -> None:
    """`import realm` in the environment means the sources, so that an edit needs no new installation."""
    [site] = (VENV / "Lib" if os.name == "nt" else VENV / "lib").glob("**/site-packages")
    (site / "realm-sources.pth").write_text(f"{ROOT / 'host_python'}\n")


# ---- system packages ----


def install_packages(wanted: dict[str, str]) -> None:
    """Installs Debian packages as root; `wanted` maps each package to what it is needed for."""
    packages = sorted(wanted)
    administrator = f"apt-get install -y {' '.join(packages)}"
    reasons = ", ".join(f"{name} ({wanted[name]})" for name in packages)
    if not is_root() or shutil.which("apt-get") is None:
        raise BuildError(f"missing: {reasons}\nan administrator must run: {administrator}")
    say(f"installing with apt-get: {reasons}")
    run(["apt-get", "update", "-q"], quiet=True)
    run(["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages], quiet=True)


def is_root() -> bool:
    return os.name != "nt" and os.geteuid() == 0


# ---- helpers ----


def say(text: str) -> None:
    print(f"[setup] {text}", flush=True)


def succeeds(command: Sequence[str]) -> bool:
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0


def run(command: Sequence[str], quiet: bool = False) -> None:
    """Runs to the end or raises; quiet output is shown only when the command fails."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "PIP_NO_INPUT": "1"}
    output = subprocess.PIPE if quiet else None
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if quiet else None,
        env=environment,
        check=False,
    )
    if done.returncode != 0:
        detail = f"\n{done.stdout.decode(errors='replace')}" if quiet else ""
        raise BuildError(f"failed with status {done.returncode}: {' '.join(command)}{detail}")
