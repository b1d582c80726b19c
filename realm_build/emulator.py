"""qemu-user for the tests of code for other processors: finds it or, as root on Debian, installs it.

It runs a program made for another processor, with the instruction sets asked for; it says nothing of speed.
"""

from __future__ import annotations

import shutil

from . import bootstrap
from .paths import BuildError

PROGRAM = "qemu-aarch64"
PACKAGES = {"qemu-user": "runs the arm64 kernels in tests"}


def install() -> str:
    """The emulator's path; installs it when there is none, or says what an administrator must run."""
    if shutil.which(PROGRAM) is None:
        bootstrap.install_packages(PACKAGES)
    program = shutil.which(PROGRAM)
    if program is None:
        raise BuildError(f"no {PROGRAM} on PATH, although its package is installed")
    return program
