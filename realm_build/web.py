"""`web`: puts the demo page and the browser bundle together in build/site, and serves them.

The folder is complete: copied to any static server it is the same page. `--plain` leaves out the two headers
that give a page threads, as such servers do.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from . import node
from .paths import BUILD, ROOT, relative
from .site import Site

DEMO_PAGE = ROOT / "web" / "demo"
SITE = BUILD / "site"


def main(port: int, plain: bool) -> int:
    stage()
    with Site({"/": SITE}, isolated=not plain, port=port) as site:
        print(f"[web] {site.url} serves {relative(SITE)}; Ctrl-C ends it", flush=True)
        while True:
            time.sleep(3600)


def stage() -> Path:
    """The page with the bundle in its folder `realm`, made anew when something changed."""
    node.build_dist()
    copy_changed(DEMO_PAGE, SITE)
    copy_changed(node.WEB_DIST, SITE / "realm")
    return SITE


def copy_changed(source: Path, target: Path) -> None:
    for file in (path for path in source.rglob("*") if path.is_file() and path.suffix != ".stamp"):
        copy = target / file.relative_to(source)
        if not copy.exists() or copy.read_bytes() != file.read_bytes():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
