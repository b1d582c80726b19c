"""What every other test here stands on: a browser with WebGPU and files, and a server that isolates pages."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from realm_build.site import Site

CONTENT = bytes(range(256)) * 4


@pytest.fixture(params=[True, False], ids=["isolated", "plain"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "index.html").write_text("<!doctype html><title>Test</title>")
    (tmp_path / "data.bin").write_bytes(CONTENT)
    (tmp_path.parent / "secret.txt").write_text("outside")
    with Site({"/": tmp_path}, isolated=request.param) as running:
        yield running


def test_threads_need_the_two_headers(page: Page, site: Site) -> None:
    page.goto(site.url)
    shared = page.evaluate("[crossOriginIsolated, typeof SharedArrayBuffer === 'function']")
    assert shared == [site.isolated, site.isolated]


def test_webgpu_has_an_adapter(page: Page, site: Site) -> None:
    page.goto(site.url)
    assert page.evaluate("navigator.gpu.requestAdapter().then((adapter) => adapter !== null)")


def test_files_of_the_origin_can_be_written(page: Page, site: Site) -> None:
    page.goto(site.url)
    size = page.evaluate(
        """async () => {
            const root = await navigator.storage.getDirectory();
            const file = await root.getFileHandle('probe', { create: true });
            const writable = await file.createWritable();
            await writable.write(new Uint8Array(1000));
            await writable.close();
            return (await file.getFile()).size;
        }"""
    )
    assert size == 1000


# ---- the server ----


def fetch(site: Site, path: str, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(site.url + path, headers=headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as answer:
        return answer.code, answer.read() if answer.code not in (304, 416) else b""


@pytest.mark.parametrize(
    ("wanted", "status", "part"),
    [
        ("bytes=0-", 200, CONTENT),
        ("bytes=10-19", 206, CONTENT[10:20]),
        ("bytes=1000-5000", 206, CONTENT[1000:]),
        ("bytes=-24", 206, CONTENT[-24:]),
        ("bytes=1024-", 416, b""),
        ("bytes=9-3", 416, b""),
        ("lines=1-2", 200, CONTENT),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_byte_ranges(site: Site, wanted: str, status: int, part: bytes) -> None:
    assert fetch(site, "data.bin", Range=wanted) == (status, part)


@pytest.mark.parametrize("path", ["missing", "../secret.txt", "%2e%2e/secret.txt", "..%2fsecret.txt"])
def test_nothing_outside_the_folder_is_served(site: Site, path: str) -> None:
    status, body = fetch(site, path)
    assert status == 404
    assert b"outside" not in body
