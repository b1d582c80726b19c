"""Starts Chromium as tests need it: with WebGPU, a profile on disk, nothing in the background."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import BrowserContext, Playwright

from realm_build import browser


def start(
    playwright: Playwright, profile: Path, webgpu: bool = True, extra: Sequence[str] = ()
) -> BrowserContext:
    """A persistent context: in a private one the browser's own file system ends near 1.4 GB."""
    return playwright.chromium.launch_persistent_context(
        profile,
        executable_path=browser.install(),
        headless=True,
        args=[*browser.QUIET, *(browser.WEBGPU if webgpu else ()), *extra],
    )
