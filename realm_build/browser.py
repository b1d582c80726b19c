"""Chromium for the tests that run in a real browser: finds it or, as root on Debian, installs it.

It is the full browser of the distribution, not a download of Playwright's and not the headless shell,
which has no WebGPU. Without a graphics card Chromium brings its own software adapter (SwiftShader).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from . import bootstrap
from .paths import BuildError

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PACKAGES = {"chromium": "the browser that tests run in", "fonts-liberation": "text in its pages"}

# No background traffic: tests must not depend on, nor wait for, anything outside this machine.
QUIET = (
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WEBGPU = ("--enable-unsafe-webgpu",)  # Chromium hides its software adapter without this


def find() -> Path | None:
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    return Path(found) if found else None


def install() -> Path:
    """The browser; installs it when there is none, or says what an administrator must run."""
    if find() is None:
        bootstrap.install_packages(PACKAGES)
    program = find()
    if program is None:
        raise BuildError(f"no {PROGRAMS[0]} on PATH, although its package is installed")
    return program
