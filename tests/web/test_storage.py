"""Where model bytes come from, in a real browser: a server that misbehaves, the cache, two tabs.

Each test has a server, and with it an origin, of its own, so that its cache starts empty. Snippets of
JavaScript run in a worker, with `storage` (web/src/source.ts) and some helpers at hand.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import BrowserContext, Page

from realm_build import node
from realm_build.paths import NODE_MODULES, ROOT
from tests.web.server import Resource, Server

BLOCK = 1 << 20
QUICK = "{ stallMs: 500, retries: 2 }"

PAGE = b"""<!DOCTYPE html><title>Storage</title><script type="module">
const worker = new Worker('/worker.mjs', { type: 'module' });
let last = 0;
const waiting = new Map();
worker.onmessage = ({ data }) => waiting.get(data.id)(data);
window.inWorker = (code, given) => new Promise((resolve) => {
  waiting.set(++last, resolve);
  worker.postMessage({ id: last, code, given });
});
</script>"""

WORKER = b"""
import * as storage from '/storage.mjs';
import { Sha256 } from '/sha256.mjs';

async function collect(source, offset = 0, size = source.size - offset, options = {}) {
  let count = 0;
  const pieces = new Map();
  await source.stream(offset, size, async (at, bytes) => {
    count += bytes.length;
    pieces.set(at, bytes.slice());
    await options.each?.(at, bytes);
  }, options.signal);
  const hash = new Sha256();
  for (const at of [...pieces.keys()].sort((a, b) => a - b)) hash.update(pieces.get(at));
  return { count, sha256: hash.hex() };
}

/** Opens, reads the header, streams all, closes. */
async function load(input, options) {
  const sources = await storage.openSource(input, options);
  const results = [];
  try {
    for (const source of sources) {
      await source.read(0, 1000);
      results.push((await collect(source)).sha256);
    }
  } finally {
    for (const source of sources) source.close();
  }
  return results;
}

/** The cache; locks of what was just closed are given back soon after. */
async function cache() {
  const opened = await storage.openCache();
  if (typeof opened === 'string') throw new Error(opened);
  return opened;
}

const kept = {};
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const AsyncFunction = (async () => {}).constructor;
onmessage = async ({ data: { id, code, given } }) => {
  const names = { storage, collect, load, cache, kept, sleep, given };
  try {
    const value = await new AsyncFunction(...Object.keys(names), code)(...Object.values(names));
    postMessage({ id, value });
  } catch (problem) {
    postMessage({ id, code: problem.code ?? problem.name, message: problem.message, stack: problem.stack });
  }
};
"""


class Failure(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Tab:
    """A page with a worker in which the storage runs."""

    def __init__(self, page: Page, server: Server) -> None:
        self.page = page
        page.goto(server.url + "/")

    def run(self, code: str, given: Any = None) -> Any:
        answer = self.page.evaluate("([code, given]) => window.inWorker(code, given)", [code, given])
        if "code" in answer:
            raise Failure(answer["code"], answer["message"])
        return answer.get("value")

    def start(self, code: str) -> None:
        """Like run, but does not wait; what fails is of no interest."""
        self.page.evaluate("(code) => { window.inWorker(code) }", code)

    def load(self, path: str, options: str = QUICK) -> list[str]:
        loaded: list[str] = self.run(f"return await load('{path}', {options})")
        return loaded

    def fails(self, path: str, options: str = QUICK) -> Failure:
        with pytest.raises(Failure) as caught:
            self.load(path, options)
        return caught.value

    def cached(self) -> list[dict[str, Any]]:
        models: list[dict[str, Any]] = self.run("return await (await cache()).list()")
        return models


@pytest.fixture(scope="session")
def modules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """web/src as modules that a browser can import."""
    node.install_tools()
    folder = tmp_path_factory.mktemp("modules")
    tool = NODE_MODULES / "esbuild" / "bin" / "esbuild"
    entries = [f"storage={ROOT / 'web/src/source.ts'}", f"sha256={ROOT / 'web/src/sha256.ts'}"]
    options = ["--bundle", "--format=esm", "--out-extension:.js=.mjs", f"--outdir={folder}"]
    subprocess.run(
        [str(node.node()), str(tool), *entries, *options, "--log-level=warning"], check=True, cwd=ROOT
    )
    return {f"/{file.name}": file.read_bytes() for file in folder.glob("*.mjs")}


@pytest.fixture
def server(modules: dict[str, bytes]) -> Iterator[Server]:
    with Server() as running:
        for path, content in {**modules, "/worker.mjs": WORKER}.items():
            running.resources[path] = Resource(content, "text/javascript")
        running.resources["/"] = Resource(PAGE, "text/html")
        yield running


@pytest.fixture
def tab(page: Page, server: Server) -> Tab:
    return Tab(page, server)


def model(size: int, seed: int = 1) -> bytes:
    return b"GGUF" + np.random.default_rng(seed).bytes(size - 4)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


CONTENT = model(12 * BLOCK + 345)
DIGEST = digest(CONTENT)


def fetched(server: Server, path: str) -> int:
    """Bytes that ranges asked for."""
    total = 0
    for request in server.requests_of(path):
        first, _, last = (request.range or "").removeprefix("bytes=").partition("-")
        total += min(int(last or len(CONTENT)), len(CONTENT) - 1) + 1 - int(first or 0)
    return total


# ---- what servers may do ----

SERVERS = {
    "ranges": {},
    "no-ranges": {"ranges": False},
    "no-length": {"ranges": False, "length": False},
    "compressed": {"ranges": False, "gzip": True},
    "no-validator": {"etag": None},
}


@pytest.mark.parametrize("cache", ["auto", "never"])
@pytest.mark.parametrize("kind", SERVERS)
def test_every_kind_of_server_gives_every_byte(tab: Tab, server: Server, kind: str, cache: str) -> None:
    server.resources["/m.gguf"] = Resource(CONTENT, **SERVERS[kind])  # type: ignore[arg-type]
    assert tab.load("/m.gguf", f"{{ cache: '{cache}', retries: 1 }}") == [DIGEST]
    models = tab.cached()
    assert [(one["complete"], one["size"]) for one in models] == [(True, len(CONTENT))] * (cache == "auto")


def test_redirects_are_followed(tab: Tab, server: Server) -> None:
    server.resources["/m.gguf"] = Resource(redirect="/elsewhere")
    server.resources["/elsewhere"] = Resource(CONTENT)
    assert tab.load("/m.gguf") == [DIGEST]


@pytest.mark.parametrize("expose", [True, False])
def test_another_origin_may_hide_its_headers(tab: Tab, server: Server, expose: bool) -> None:
    with Server() as other:
        other.resources["/m.gguf"] = Resource(CONTENT, expose=expose)
        assert tab.load(f"{other.url}/m.gguf") == [DIGEST]
        other.resources["/m.gguf"].cors = False
        assert tab.fails(f"{other.url}/private.gguf").code == "io"  # its 404 cannot be read either
        other.resources["/n.gguf"] = Resource(CONTENT, cors=False)
        failure = tab.fails(f"{other.url}/n.gguf")
        assert failure.code == "io"
        assert "CORS" in failure.message


@pytest.mark.parametrize(
    ("status", "code"),
    [(404, "not-found"), (410, "not-found"), (403, "io"), (401, "io"), (416, "io"), (500, "io"), (503, "io")],
)
def test_refusals_are_typed_and_heal(tab: Tab, server: Server, status: int, code: str) -> None:
    server.resources["/m.gguf"] = Resource(CONTENT, status=status)
    failure = tab.fails("/m.gguf")
    assert failure.code == code
    assert str(status) in failure.message
    server.resources["/m.gguf"].times = 0
    assert tab.load("/m.gguf") == [DIGEST]


def test_a_web_page_is_no_model(tab: Tab, server: Server) -> None:
    server.resources["/m.gguf"] = Resource(b"<!DOCTYPE html><p>Sign in", "text/html")
    failure = tab.fails("/m.gguf")
    assert failure.code == "invalid-gguf"
    assert "web page" in failure.message
    server.resources["/m.gguf"] = Resource(b"version https://git-lfs.github.com/spec/v1\n")
    assert "LFS" in tab.fails("/m.gguf").message
    assert tab.cached() == []


def test_a_server_that_is_gone(tab: Tab) -> None:
    with Server() as other:
        address = other.url
    assert tab.fails(f"{address}/m.gguf").code == "io"


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("trouble", [{"cut": 3 * BLOCK // 2}, {"stall": 3 * BLOCK // 2}, {"status": 503}])
def test_passing_trouble_heals_by_itself(
    tab: Tab, server: Server, ranges: bool, trouble: dict[str, int]
) -> None:
    server.resources["/m.gguf"] = Resource(CONTENT, ranges=ranges, times=2, **trouble)  # type: ignore[arg-type]
    assert tab.load("/m.gguf") == [DIGEST]


def test_a_stalled_server_is_given_up(tab: Tab, server: Server) -> None:
    server.resources["/m.gguf"] = Resource(CONTENT, stall=100_000)
    begun = time.monotonic()
    assert tab.fails("/m.gguf").code == "timed-out"
    assert time.monotonic() - begun < 15


# ---- lies ----


@pytest.mark.parametrize("lie", ["bytes 5-99/100", "bytes 0-99/99999999999999999999", "nonsense"])
def test_a_lying_range_is_not_believed(tab: Tab, server: Server, lie: str) -> None:
    """Then the file is asked for as a whole."""
    server.resources["/m.gguf"] = Resource(CONTENT, headers={"Content-Range": lie})
    assert tab.load("/m.gguf") == [DIGEST]


def test_an_absurd_size_is_refused(tab: Tab, server: Server) -> None:
    server.resources["/m.gguf"] = Resource(CONTENT, headers={"Content-Range": f"bytes 0-{BLOCK - 1}/{2**50}"})
    assert tab.fails("/m.gguf").code == "io"


def test_a_file_that_is_shorter_than_announced(tab: Tab, server: Server) -> None:
    lie = {"Content-Range": f"bytes 0-{BLOCK - 1}/{len(CONTENT) + BLOCK}"}
    server.resources["/m.gguf"] = Resource(CONTENT, headers=lie, times=1)
    assert tab.fails("/m.gguf").code == "io"


@pytest.mark.parametrize("length", [True, False])
def test_a_body_without_end_is_cut_off(tab: Tab, server: Server, length: bool) -> None:
    """Announced as the model's size, more comes: HTTP ends it. Unannounced, the caller's signal does."""
    server.resources["/m.gguf"] = Resource(CONTENT[:BLOCK], ranges=False, length=length, endless=True)
    if length:
        assert tab.load("/m.gguf") == [digest(CONTENT[:BLOCK])]
    else:
        assert tab.fails("/m.gguf", "{ signal: AbortSignal.timeout(500) }").code == "cancelled"
    sent = server.bytes_sent
    time.sleep(0.3)
    assert server.bytes_sent - sent < 64 * BLOCK


def test_a_file_that_changes_while_it_loads(tab: Tab, server: Server) -> None:
    newer = model(len(CONTENT), seed=2)
    server.resources["/m.gguf"] = Resource(CONTENT)
    tab.run("kept.sources = await storage.openSource('/m.gguf')")
    server.resources["/m.gguf"] = Resource(newer, etag='"two"')
    with pytest.raises(Failure, match="replaced"):
        tab.run("await collect(kept.sources[0])")
    assert tab.load("/m.gguf") == [digest(newer)]
    tab.run("kept.sources[0].close()")


# ---- the cache ----


def test_what_is_cached_is_not_downloaded_again(tab: Tab, server: Server) -> None:
    server.resources["/m.gguf"] = Resource(CONTENT)
    assert tab.load("/m.gguf") == [DIGEST]
    assert fetched(server, "/m.gguf") <= len(CONTENT)
    server.requests.clear()
    assert tab.load("/m.gguf") == [DIGEST]
    assert fetched(server, "/m.gguf") < 1000
    del server.resources["/m.gguf"]
    assert tab.fails("/m.gguf").code == "not-found"


def test_a_cached_model_works_without_the_server(tab: Tab, server: Server) -> None:
    with Server() as other:
        other.resources["/m.gguf"] = Resource(CONTENT)
        address = f"{other.url}/m.gguf"
        assert tab.load(address) == [DIGEST]
    assert tab.load(address) == [DIGEST]


def test_a_newer_version_replaces_the_cached_one(tab: Tab, server: Server) -> None:
    server.resources["/m.gguf"] = Resource(CONTENT)
    assert tab.load("/m.gguf") == [DIGEST]
    newer = model(5 * BLOCK, seed=3)
    server.resources["/m.gguf"] = Resource(newer, etag='"two"')
    assert tab.load("/m.gguf") == [digest(newer)]
    assert [one["size"] for one in tab.cached()] == [len(newer)]


def test_a_closed_tab_resumes(browser: BrowserContext, server: Server) -> None:
    content = model(48 * BLOCK + 9)
    server.resources["/m.gguf"] = Resource(content, rate=6 * BLOCK)
    page = browser.new_page()
    first = Tab(page, server)
    first.start("await load('/m.gguf')")
    deadline = time.monotonic() + 20
    while not any(one["cached"] >= 8 * BLOCK for one in first.cached()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    page.close()
    server.resources["/m.gguf"] = Resource(content)
    server.requests.clear()
    second = Tab(browser.new_page(), server)
    held = second.cached()[0]["cached"]
    second.run("await sleep(200)")
    assert second.load("/m.gguf") == [digest(content)]
    asked = [request.range for request in server.requests_of("/m.gguf")]
    assert not any(one in (f"bytes=0-{BLOCK - 1}", None) for one in asked)
    assert sum(span(one) for one in asked) <= len(content) - held + 64
    second.page.close()


def span(asked: str | None) -> int:
    first, _, last = (asked or "").removeprefix("bytes=").partition("-")
    return int(last) + 1 - int(first)


def test_digests_are_checked_and_remembered(tab: Tab, server: Server) -> None:
    server.resources["/m.gguf"] = Resource(CONTENT)
    wrong = f"{{ sha256: '{'0' * 64}' }}"
    failure = tab.fails("/m.gguf", wrong)
    assert failure.code == "io"
    assert DIGEST in failure.message
    assert not any(one["complete"] for one in tab.cached())
    right = f"{{ sha256: '{DIGEST}' }}"
    assert tab.load("/m.gguf", right) == [DIGEST]
    assert [one["sha256"] for one in tab.cached()] == [DIGEST]
    server.requests.clear()
    assert tab.load("/m.gguf", right) == [DIGEST]
    assert server.requests_of("/m.gguf") == []  # the bytes are known: nobody has to be asked


def test_damage_in_the_cache_is_found_by_the_digest(tab: Tab, server: Server) -> None:
    server.resources["/m.gguf"] = Resource(CONTENT)
    tab.load("/m.gguf")
    tab.run(
        """const root = await navigator.storage.getDirectory();
        const models = await root.getDirectoryHandle('realm-models');
        const id = (await (await cache()).list())[0].id;
        const data = await (await models.getDirectoryHandle(id)).getFileHandle('data');
        const handle = await data.createSyncAccessHandle();
        handle.write(new Uint8Array([1, 2, 3]), { at: 5000000 });
        handle.close();"""
    )
    right = f"{{ sha256: '{DIGEST}' }}"
    assert tab.fails("/m.gguf", right).code == "io"
    assert tab.load("/m.gguf", right) == [DIGEST]


def test_list_room_and_delete(tab: Tab, server: Server) -> None:
    server.resources["/m.gguf"] = Resource(CONTENT)
    tab.load("/m.gguf", "{ cacheKey: 'my model' }")
    [one] = tab.cached()
    assert (one["key"], one["name"], one["cached"]) == ("my model", "m.gguf", len(CONTENT))
    room = tab.run("return await (await cache()).room()")
    assert room["used"] >= len(CONTENT)
    assert room["free"] > 0
    tab.run("kept.sources = await storage.openSource('/m.gguf', { cacheKey: 'my model' })")
    with pytest.raises(Failure, match="busy"):
        tab.run("await (await cache()).delete((await (await cache()).list())[0].id)")
    tab.run("kept.sources[0].close()")
    tab.run("await sleep(50); await (await cache()).delete((await (await cache()).list())[0].id)")
    assert tab.cached() == []
    tab.run("await (await cache()).delete('never there')")


@pytest.mark.parametrize("failing", ["throws", "short", "negative"])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_full_disk_costs_only_the_cache(tab: Tab, server: Server, failing: str, ranges: bool) -> None:
    """Faked in the worker's own file handles: they report a full disk in three ways after some bytes."""
    server.resources["/m.gguf"] = Resource(CONTENT, ranges=ranges)
    answer = {
        "throws": "throw new DOMException('full', 'QuotaExceededError')",
        "short": "return 7",
        "negative": "return -8",
    }
    tab.run(
        f"""const prototype = FileSystemSyncAccessHandle.prototype;
        const write = prototype.write;
        kept.left = 5e6;
        prototype.write = function (bytes, options) {{
          kept.left -= bytes.length;
          if (kept.left < 0) {{ {answer[failing]}; }}
          return write.call(this, bytes, options);
        }};"""
    )
    assert tab.fails("/m.gguf", "{ cache: 'always' }").code == "limit-exceeded"
    tab.run("kept.left = 5e6")
    told = "{ notice: (text) => { kept.notice = text; } }"
    assert tab.load("/m.gguf", told) == [DIGEST]
    assert "no room" in tab.run("return kept.notice")
    assert not any(one["complete"] for one in tab.cached())


def test_a_real_quota(tab: Tab, server: Server) -> None:
    server.resources["/m.gguf"] = Resource(CONTENT)
    session = tab.page.context.new_cdp_session(tab.page)
    session.send("Storage.overrideQuotaForOrigin", {"origin": server.url, "quotaSize": 9_000_000})
    failure = tab.fails("/m.gguf", "{ cache: 'always' }")
    assert failure.code == "limit-exceeded"
    assert re.search(r"13 MB are needed and there is room for [0-8]\.\d MB", failure.message)
    assert tab.load("/m.gguf") == [DIGEST]
    session.send("Storage.overrideQuotaForOrigin", {"origin": server.url})
    assert tab.load("/m.gguf", "{ cache: 'always' }") == [DIGEST]


def test_no_room_is_said_with_figures(tab: Tab, server: Server) -> None:
    server.resources["/m.gguf"] = Resource(CONTENT)
    tab.run("StorageManager.prototype.estimate = async () => ({ quota: 10e6, usage: 4e6 })")
    failure = tab.fails("/m.gguf", "{ cache: 'always' }")
    assert failure.code == "limit-exceeded"
    assert "13 MB are needed and there is room for 6.0 MB" in failure.message
    notices = tab.run(
        """const notices = [];
        await load('/m.gguf', { notice: (text) => notices.push(text) });
        return notices;"""
    )
    assert len(notices) == 1
    assert "6.0 MB" in notices[0]


@pytest.mark.parametrize("how", ["absent", "refused"])
def test_without_storage_everything_else_works(tab: Tab, server: Server, how: str) -> None:
    server.resources["/m.gguf"] = Resource(CONTENT)
    refuse = "async () => { throw new DOMException('no', 'SecurityError'); }"
    tab.run(f"StorageManager.prototype.getDirectory = {refuse if how == 'refused' else 'undefined'}")
    assert tab.load("/m.gguf") == [DIGEST]
    assert tab.fails("/m.gguf", "{ cache: 'always' }").code == "limit-exceeded"


# ---- several at once ----


def test_callers_share_one_download(tab: Tab, server: Server) -> None:
    server.resources["/m.gguf"] = Resource(CONTENT, rate=16 * BLOCK)
    loaded = tab.run("return await Promise.all([1, 2, 3].map(() => load('/m.gguf')))")
    assert loaded == [[DIGEST]] * 3
    assert fetched(server, "/m.gguf") <= len(CONTENT)


def test_who_aborts_does_not_disturb_who_shares(tab: Tab, server: Server) -> None:
    server.resources["/m.gguf"] = Resource(CONTENT, rate=16 * BLOCK)
    outcome = tab.run(
        """const controller = new AbortController();
        setTimeout(() => controller.abort(), 150);
        const [a] = await storage.openSource('/m.gguf');
        const [b] = await storage.openSource('/m.gguf');
        const results = await Promise.allSettled([
          collect(a, 0, a.size, { signal: controller.signal }), collect(b)]);
        a.close(); b.close();
        return [results[0].reason.code, results[1].value.sha256];"""
    )
    assert outcome == ["cancelled", DIGEST]


def test_two_tabs_at_once(browser: BrowserContext, server: Server) -> None:
    """The second one loads past the cache; afterwards both read the one copy."""
    server.resources["/m.gguf"] = Resource(CONTENT, rate=16 * BLOCK)
    tabs = [Tab(browser.new_page(), server) for _ in range(2)]
    for each in tabs:
        each.start("kept.done = load('/m.gguf', { notice: (text) => { kept.notice = text; } })")
    loaded = [each.run("return await kept.done") for each in tabs]
    assert loaded == [[DIGEST], [DIGEST]]
    notices = [each.run("return kept.notice ?? ''") for each in tabs]
    assert sum("another tab" in text for text in notices) <= 1
    assert [one["complete"] for one in tabs[0].cached()] == [True]
    server.requests.clear()
    for each in tabs:
        each.run("[kept.source] = await storage.openSource('/m.gguf'); await collect(kept.source)")
    assert fetched(server, "/m.gguf") < 1000
    for each in tabs:
        each.page.close()


# ---- files, shards, aborts, memory ----


def test_a_chosen_file_is_used_where_it_is(tab: Tab, server: Server, tmp_path: Path) -> None:
    file = tmp_path / "chosen.gguf"
    file.write_bytes(CONTENT)
    tab.page.evaluate(
        "document.body.append(Object.assign(document.createElement('input'), { type: 'file' }))"
    )
    tab.page.set_input_files("input", file)
    code = (
        "window.inWorker('return await load(given, { cache: %s })', document.querySelector('input').files[0])"
    )
    assert tab.page.evaluate(code % '"auto"')["value"] == [DIGEST]
    assert tab.cached() == []
    assert tab.page.evaluate(code % '"always"')["value"] == [DIGEST]
    assert [one["complete"] for one in tab.cached()] == [True]
    assert tab.page.evaluate(code % '"always"')["value"] == [DIGEST]
    file.write_bytes(CONTENT[:5000])
    assert tab.page.evaluate(code % '"auto"')["code"] == "io"


def test_shards_are_found_and_loaded(tab: Tab, server: Server) -> None:
    parts = [model(3 * BLOCK + at, seed=at) for at in range(3)]
    for at, part in enumerate(parts):
        server.resources[f"/m-0000{at + 1}-of-00003.gguf"] = Resource(part)
    options = f"{{ sha256: {[digest(part) for part in parts]} }}"
    assert tab.load("/m-00002-of-00003.gguf", options) == [digest(part) for part in parts]
    assert len(tab.cached()) == 3
    del server.resources["/m-00003-of-00003.gguf"]
    failure = tab.fails("/m-00001-of-00003.gguf")
    assert failure.code == "not-found"
    assert "00003-of-00003" in failure.message


def test_an_abort_is_quick_and_ends_the_transfer(tab: Tab, server: Server) -> None:
    server.resources["/m.gguf"] = Resource(CONTENT, stall=BLOCK + 1000)
    waited = tab.run(
        """const [source] = await storage.openSource('/m.gguf');
        const controller = new AbortController();
        let at;
        setTimeout(() => { at = performance.now(); controller.abort(); }, 300);
        const stream = source.stream(0, source.size, () => {}, controller.signal);
        const code = await stream.catch((problem) => problem.code);
        source.close();
        return [code, performance.now() - at];"""
    )
    assert waited[0] == "cancelled"
    assert waited[1] < 200


def test_progress_grows_to_the_whole(tab: Tab, server: Server) -> None:
    server.resources["/m.gguf"] = Resource(CONTENT)
    steps = tab.run(
        f"""const steps = [];
        await load('/m.gguf', {{ sha256: '{DIGEST}', transfer: (state) => steps.push(state) }});
        return steps;"""
    )
    loaded = [step["loaded"] for step in steps]
    assert loaded == sorted(loaded)
    assert steps[-1] == {"loaded": len(CONTENT), "verified": len(CONTENT), "total": len(CONTENT)}
    assert len(steps) > 5


def test_little_is_in_flight_while_the_caller_is_slow(tab: Tab, server: Server) -> None:
    """A caller that holds its pieces holds back the server: nothing piles up in between."""
    content = model(96 * BLOCK)
    server.resources["/m.gguf"] = Resource(content)
    delivered = tab.run(
        """const [source] = await storage.openSource('/m.gguf', { cache: 'never' });
        let delivered = 0;
        const controller = new AbortController();
        const aborted = new Promise((resolve) => controller.signal.addEventListener('abort', resolve));
        const stream = source.stream(0, source.size, (at, bytes) => {
          delivered += bytes.length;
          return delivered > 8e6 ? aborted : undefined;
        }, controller.signal).catch(() => 0);
        await sleep(1500);
        controller.abort();
        await stream;
        source.close();
        return delivered;"""
    )
    assert server.bytes_sent - delivered < 40 * BLOCK  # of 96; most of it in the sockets
