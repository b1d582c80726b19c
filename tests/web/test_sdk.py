"""The SDK in a page: as a module and as a classic script, from the page's origin and from another one, with
threads and without; own guests, aborts, errors, and engines that end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from realm_build import node
from realm_build.paths import DEMO_MODEL
from realm_build.site import Site
from tests.web.server import Resource, Server

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."
MODULE = """<!doctype html><title>Test</title><script type="module">
import * as sdk from './realm/realm.mjs';
globalThis.sdk = sdk;</script>"""
CLASSIC = "<!doctype html><title>Test</title><script src='{}realm.min.js'></script>"
TYPES = {".js": "text/javascript", ".wasm": "application/wasm", ".gguf": "application/octet-stream"}


@pytest.fixture(params=[True, False], ids=["isolated", "plain"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "module.html").write_text(MODULE)
    (tmp_path / "classic.html").write_text(CLASSIC.format("realm/"))
    folders = {"/": tmp_path, "/realm/": node.WEB_DIST, "/models/": DEMO_MODEL.parent}
    with Site(folders, isolated=request.param) as running:
        yield running


def opened(page: Page, site: Site) -> Page:
    page.goto(f"{site.url}module.html")
    page.wait_for_function("globalThis.sdk")
    return page


def run(page: Page, body: str) -> Any:
    """Runs the body of an async function with `Realm` and the other names of the SDK, and the question."""
    names = "Realm, RealmError, Model, Runtime, modelCache"
    return page.evaluate(
        f"async (question) => {{ const {{ {names} }} = globalThis.sdk; {body} }}",
        json.loads(json.dumps(QUESTION)),
    )


def test_a_module_answers(page: Page, site: Site) -> None:
    made = run(
        opened(page, site),
        """const seen = [];
        const realm = new Realm({ backend: 'wasm', threads: 2 });
        await realm.loadModel('models/realm-demo.gguf', { progress: (done) => seen.push(done) });
        const answer = await realm.chat(question, { temperature: 0 });
        const pieces = [];
        for await (const piece of realm.chatStream(question, { temperature: 0 })) pieces.push(piece);
        const stats = await realm.stats();
        realm.dispose();
        const streamed = pieces.join('');
        return { text: answer.text, usage: answer.usage, streamed, pieces: pieces.length, seen, stats };""",
    )
    assert made["text"] == made["streamed"] == ANSWER
    assert made["pieces"] > 2
    assert made["seen"][-1] == 1
    assert made["stats"]["backend"] == "wasm"
    assert made["stats"]["threads"] == (2 if site.isolated else 1)


@pytest.mark.parametrize(
    "source", ["undefined", "blob", "buffer", "new URL('models/realm-demo.gguf', location)"]
)
def test_every_kind_of_source(page: Page, site: Site, source: str) -> None:
    text = run(
        opened(page, site),
        f"""const fetched = await fetch('models/realm-demo.gguf');
        const buffer = await fetched.arrayBuffer();
        const blob = new Blob([buffer]);
        const realm = new Realm();
        const model = await realm.loadModel({source});
        const text = (await realm.chat(question, {{ temperature: 0, model }})).text;
        realm.dispose();
        return text;""",
    )
    assert text == ANSWER


def test_a_gpu_answers(page: Page, site: Site) -> None:
    """The adapter here is software, which `auto` leaves for WebAssembly."""
    made = run(
        opened(page, site),
        """const answers = {};
        for (const backend of ['webgpu', 'auto']) {
          const realm = new Realm({ backend });
          const { text } = await realm.chat(question, { temperature: 0 });
          const stats = await realm.stats();
          answers[backend] = [text, stats.backend];
          realm.dispose();
        }
        return answers;""",
    )
    assert made == {"webgpu": [ANSWER, "webgpu"], "auto": [ANSWER, "wasm"]}


def test_a_classic_script_of_another_origin_answers(page: Page, site: Site) -> None:
    """As from a CDN: the page may neither start its worker nor read its files without the CDN's leave."""
    with Server() as cdn:
        for file in node.WEB_DIST.iterdir():
            kind = TYPES.get(file.suffix, "text/plain")
            headers = {"Cross-Origin-Resource-Policy": "cross-origin"}
            cdn.resources[f"/sdk/{file.name}"] = Resource(content=file, type=kind, headers=headers)
        (site.folders["/"] / "classic.html").write_text(CLASSIC.format(f"{cdn.url}/sdk/"))
        page.goto(f"{site.url}classic.html")
        page.wait_for_function("() => typeof globalThis.Realm === 'function'")
        page.evaluate("() => { globalThis.sdk = { Realm, ...Realm } }")
        text = run(
            page,
            """const realm = new globalThis.Realm({ backend: 'wasm' });
            return (await realm.chat(question, { temperature: 0 })).text;""",
        )
        assert text == ANSWER


def test_aborts_errors_and_ends(page: Page, site: Site) -> None:
    codes = run(
        opened(page, site),
        """const codes = {};
        const failing = (name, promise) => promise.then(
          () => (codes[name] = 'fine'),
          (problem) => (codes[name] = problem instanceof RealmError ? problem.code : String(problem)));
        const long = { ignoreEnd: true, maxTokens: 400, temperature: 0 };
        const realm = new Realm({ backend: 'wasm' });
        await realm.loadModel();
        const stop = new AbortController();
        const running = failing('aborted', realm.generate('The', { ...long, signal: stop.signal }));
        setTimeout(() => stop.abort(), 20);
        await running;
        await failing('not a model', realm.loadModel(new Blob(['<!doctype html>'])));
        await failing('no address', realm.loadModel('ftp://example.org/x.gguf'));
        await failing('not there', realm.loadModel('nothing.gguf', { retries: 0 }));
        await failing('functions', realm.renderChat(question, { templateVariables: { f: () => 1 } }));
        const other = new Realm({ backend: 'wasm', threads: 1 });
        await failing('other engine', other.generate('x', { model: await realm.loadModel() }));
        const disposed = failing('disposed', other.generate('The', long));
        setTimeout(() => other.dispose(), 50);
        await disposed;
        await failing('closed', other.generate('x'));
        try { new Realm({ backend: 'cuda' }) } catch (problem) { codes.cuda = problem.code }
        try { new Realm({ isolation: 'worker' }) } catch (problem) { codes.isolation = problem.code }
        codes.after = (await realm.chat(question, { temperature: 0 })).text;
        return codes;""",
    )
    assert codes.pop("not there") in {"io", "not-found"}
    assert codes == {
        "aborted": "cancelled",
        "not a model": "invalid-gguf",
        "no address": "invalid-argument",
        "functions": "invalid-argument",
        "other engine": "invalid-handle",
        "disposed": "closed",
        "closed": "closed",
        "cuda": "backend-unavailable",
        "isolation": "unsupported",
        "after": ANSWER,
    }


def test_an_own_guest_and_two_realms_at_once(page: Page, site: Site) -> None:
    made = run(
        opened(page, site),
        """const runtime = new Runtime({ backend: 'wasm' });
        const bytes = new Uint8Array(await (await fetch('realm/realm.wasm')).arrayBuffer());
        const guest = await runtime.loadWasm(bytes);
        const model = await runtime.loadModel('models/realm-demo.gguf');
        const { text } = await guest.run('The capital of France is', { model, temperature: 0, maxTokens: 3 });
        const realms = [new Realm({ backend: 'wasm' }), new Realm({ backend: 'wasm' })];
        const settings = { temperature: 0, model };
        const answers = await Promise.all(realms.map((realm) => realm.chat(question, settings)));
        const ids = await model.tokenize('hello');
        const back = await model.detokenize(ids);
        runtime.dispose();
        for (const realm of realms) realm.dispose();
        const exports = guest.exports.includes('memory');
        return { text, answers: answers.map(({ text }) => text), back, exports };""",
    )
    assert made["text"].startswith(" Paris")
    assert made["answers"] == [ANSWER, ANSWER]
    assert made["back"] == "hello"
    assert made["exports"]


def test_a_missing_part_is_named(page: Page, tmp_path: Path) -> None:
    for name in ("realm.mjs", "worker.js", "realm.wasm"):
        (tmp_path / name).write_bytes((node.WEB_DIST / name).read_bytes())
    (tmp_path / "module.html").write_text(MODULE.replace("./realm/", "./"))
    with Site({"/": tmp_path}) as site:
        opened(page, site)
        for part in ("core-threads", "worker.js"):
            code, message = run(
                page,
                """const realm = new Realm({ threads: 2 });
                const problem = await realm.loadModel().catch((problem) => problem);
                return [problem.code, problem.message];""",
            )
            assert code == "backend-unavailable"
            assert part in message
            (tmp_path / "worker.js").unlink(missing_ok=True)
            page.reload()
            page.wait_for_function("globalThis.sdk")
