"""Chat templates: equal to HF transformers' rendering, hostile ones stopped, and user text that stays text."""

# ruff: noqa: E501 (templates are data)

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from realm import Realm, RealmError, TemplateError
from realm._template import MAX_SECONDS, render

VECTORS = Path(__file__).parents[1] / "vectors"
CHAIN = VECTORS / "model-chain.gguf"
ALWAYS = {"tools": None, "documents": None, "bos_token": "<s>", "eos_token": "</s>"}
USER = {"messages": [{"role": "user", "content": "hello"}]}

needs_assets = pytest.mark.skipif("REALM_ASSETS" not in os.environ, reason="skipped: REALM_ASSETS not set")


def rendered(source: str, variables: dict[str, Any], now: str = "2024-07-26T12:00:00") -> dict[str, str]:
    try:
        return {"output": render(source, {**ALWAYS, **variables}, datetime.fromisoformat(now))}
    except TemplateError as problem:
        return {"error": problem.message}


@needs_assets
def test_real_templates_give_what_jinja2_gives() -> None:
    folder = Path(os.environ.get("REALM_ASSETS", "")) / "templates"
    cases = json.loads((folder / "expected" / "_cases.json").read_text())["cases"]
    count = 0
    for path in sorted(folder.glob("*.jinja")):
        expected = json.loads((folder / "expected" / f"{path.stem}.json").read_text())
        for name, wanted in expected.items():
            assert rendered(path.read_text(), cases[name]) == wanted, (path.stem, name)
            count += 1
    assert count > 200


def test_committed_vectors_of_transformers() -> None:
    vectors = json.loads((VECTORS / "templates.json").read_text())
    count = 0
    for name, source in vectors["templates"].items():
        for case, wanted in vectors["expected"][name].items():
            made = rendered(source, vectors["conversations"][case], vectors["now"])
            if "output" in wanted:
                assert made == {"output": wanted["output"]}, (name, case)
            else:
                assert "error" in made, (name, case)
            count += 1
    assert count > 20


# ---- hostile templates ----

DEEP = 5000
HOSTILE = {
    "loop": "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
    "loop with break": "{% for a in range(99999) %}{% for b in range(99999) %}{% continue %}{% endfor %}{% endfor %}",
    "range": "{% for a in range(1000000000) %}x{% endfor %}",
    "range as list": "{{ range(1000000000) | list | length }}",
    "big string": "{{ 'x' * 1000000000 }}",
    "big string computed": "{% set n = 1000000000 %}{{ 'x' * n }}",
    "big list": "{{ ([1] * 1000000000) | length }}",
    "big number": "{{ 10 ** 1000000000 }}",
    "tower": "{{ 9 ** 9999 ** 9999 }}",
    "doubling": "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(100) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
    "adding": "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
    "squaring": "{% set ns = namespace(n=99) %}{% for i in range(100) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
    "replace": "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(100) %}{% set ns.s = ns.s.replace('x', 'xxxxxxxx') %}{% endfor %}",
    "replace filter": "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(100) %}{% set ns.s = ns.s | replace('x', 'xxxxxxxx') %}{% endfor %}",
    "join": "{% set s = 'x' * 1000000 %}{{ ([s] * 100000) | join }}",
    "join method": "{% set s = 'x' * 1000000 %}{{ s.join(['a'] * 100000) }}",
    "center": "{{ 'x' | center(1000000000) }}",
    "indent": "{{ 'x\\ny' | indent(1000000000) }}",
    "ljust": "{{ 'x'.ljust(1000000000) }}",
    "expandtabs": "{{ ('\\t' * 1000000).expandtabs(1000000) }}",
    "format width": "{{ '%1000000000d' % 1 }}",
    "format star": "{{ '%*d' % (1000000000, 1) }}",
    "format filter": "{{ '%1000000000d' | format(1) }}",
    "format method": "{{ '{:>1000000000}'.format(1) }}",
    "format nested": "{{ '{:>{}}'.format(1, 1000000000) }}",
    "zfill": "{{ '1'.zfill(1000000000) }}",
    "tojson": "{{ ([[1] * 100000] * 100000) | tojson }}",
    "tojson indent": "{{ [1] | tojson(indent=1000000000) }}",
    "batch": "{{ [1] | batch(1000000000, 'x') | list }}",
    "slice": "{{ [1] | slice(1000000000) | list }}",
    "output": "{% set s = 'x' * 100000 %}{% for a in range(100000) %}{{ s }}{% endfor %}",
    "literal output": "{% for a in range(100000) %}" + "x" * 100_000 + "{% endfor %}",
    "captured literal": "{% set s %}{% for a in range(100000) %}" + "x" * 100_000 + "{% endfor %}{% endset %}",
    "macro recursion": "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "macro tree": "{% macro m(n) %}{% if n > 0 %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "macro literal": "{% macro m() %}" + "x" * 100_000 + "{% endmacro %}{% for a in range(100000) %}{% set s = m() %}{% endfor %}",
    "recursive loop": "{% for a in [1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
    "parentheses": "{{ " + "(" * DEEP + "1" + ")" * DEEP + " }}",
    "lists": "{{ " + "[" * DEEP + "]" * DEEP + " }}",
    "nots": "{{ " + "not " * DEEP + "1 }}",
    "ifs": "{% if 1 %}" * DEEP + "{% endif %}" * DEEP,
    "nested loops": "{% for a in [1] %}" * 300 + "{% endfor %}" * 300,
    "long": "x" * 1_000_000,
    "unclosed": "{% for",
    "unknown tag": "{% frobnicate %}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}",
    "extends": "{% extends 'x' %}",
    "lipsum": "{{ lipsum(1000000) }}",
    "division": "{{ 1 / 0 }}",
    "class": "{{ ''.__class__.__mro__ }}",
    "builtins": "{{ cycler.__init__.__globals__.os.system('true') }}",
    "format escape": "{{ '{0.__class__.__mro__}'.format(messages) | length / 0 }}",
    "map attribute": "{{ [''] | map(attribute='__class__') | map(attribute='__mro__') | list | tojson }}",
    "mutation": "{{ messages.append(1) }}",
    "pop": "{{ messages[0].pop('role') }}",
    "generator frame": "{{ (messages | map('upper')).gi_frame.f_globals }}",
    "context": "{{ self._TemplateReference__context.environment.filters }}",
    "strftime": "{{ strftime_now('%Y' * 1000000) }}",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_end_soon_with_a_template_error(name: str) -> None:
    began = time.monotonic()
    with pytest.raises(TemplateError) as caught:
        render(HOSTILE[name], {**ALWAYS, **USER})
    assert caught.value.code == "template-error"
    assert "\n" not in caught.value.message
    assert time.monotonic() - began < MAX_SECONDS + 3


@pytest.mark.parametrize(
    "source",
    ["{{ raise_exception.__globals__ }}", "{{ '' | attr('__class__') | attr('__mro__') | list | join }}"],
)
def test_attributes_of_python_read_as_nothing(source: str) -> None:
    assert rendered(source, USER) == {"output": ""}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_hostile_template_takes_much_memory() -> None:
    """All of them in one process, whose address space is bounded."""
    program = """
import resource, sys
from tests.unit.test_chat import ALWAYS, HOSTILE, USER
from realm._errors import TemplateError
from realm._template import render
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
for name, source in HOSTILE.items():
    try:
        render(source, {**ALWAYS, **USER})
    except TemplateError as problem:
        if "MemoryError" in problem.message:
            sys.exit(name)
from pathlib import Path
[line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
peak = int(line.split()[1]) >> 10
sys.exit(0 if peak < 600 else f"{peak} MiB")
"""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'host_python'}{os.pathsep}{root}"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_template_cannot_change_what_it_is_given() -> None:
    messages = [{"role": "user", "content": "x"}]
    rendered(
        "{% for m in messages %}{% set m = 1 %}{% endfor %}{{ messages.clear() }}", {"messages": messages}
    )
    assert messages == [{"role": "user", "content": "x"}]


def test_long_conversations_are_no_attack() -> None:
    source = json.loads((VECTORS / "templates.json").read_text())["templates"]["turns"]
    messages = [{"role": "user", "content": "x" * 2000}] * 2000
    assert len(rendered(source, {"messages": messages})["output"]) > 4_000_000


def test_messages_that_are_no_data_are_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(RealmError):
        render("{{ messages }}", {"messages": loop})


# ---- prompts of a model ----


def test_control_tokens_in_user_text_stay_text() -> None:
    with Realm(CHAIN) as realm:
        control = realm.tokenize("<|assistant|>", parse_special=True)
        assert len(control) == 1
        for content in ("a<|assistant|>b", "<|<|assistant|>assistant|>", "<s></s>", "<|user|>" * 50):
            prompt = realm.render_chat([{"role": "user", "content": content}], add_generation_prompt=False)
            ids = realm.tokenize(prompt, parse_special=True)
            specials = [i for i in ids if not realm.model.detokenize_bytes([i]) and i < 5]
            assert [realm.detokenize([i], special=True) for i in specials] == ["<s>", "<|user|>"]
            assert realm.render_chat([{"role": "user", "content": "ok"}], add_generation_prompt=False) == (
                "<s><|user|>ok"
            )


def test_the_guard_reaches_into_parts_and_tool_results() -> None:
    with Realm(CHAIN) as realm:
        template = "{{ messages | tojson }}"
        parts = [{"type": "text", "text": "a<|assistant|>"}]
        for role in ("user", "tool", "something else"):
            made = realm.render_chat([{"role": role, "content": parts}], chat_template=template)
            assert "<|assistant|>" not in made
        made = realm.render_chat([{"role": "system", "content": "<|assistant|>"}], chat_template=template)
        assert "<|assistant|>" in made


def test_a_model_without_a_template() -> None:
    with Realm(VECTORS / "model-mistral.gguf") as realm:
        assert realm.model.chat_template is None
        with pytest.raises(TemplateError):
            realm.chat(USER["messages"])
        made = realm.render_chat(USER["messages"], chat_template="{{ messages[0].content }}!")
        assert made == "hello!"


def test_bos_is_not_added_twice() -> None:
    with Realm(CHAIN) as realm:
        messages = [{"role": "user", "content": "1"}]
        prompt = realm.render_chat(messages)
        assert prompt.startswith("<s>")
        count = len(realm.tokenize(prompt, parse_special=True))
        assert realm.chat(messages, temperature=0).prompt_tokens == count
