"""Real chat templates against jinja2 in the environment of transformers, errors too (REALM_ASSETS)."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest
from realm import TemplateError
from realm._template import render

from tests.unit import engine

pytestmark = engine.needs_assets

NAMES = sorted(path.stem for path in (engine.assets() / "templates").glob("*.jinja")) or ["none"]


def read(name: str) -> Any:
    return json.loads(
        (engine.assets() / "templates" / "expected" / f"{name}.json").read_text(encoding="utf-8")
    )


@pytest.mark.parametrize("name", NAMES)
def test_template(name: str) -> None:
    source = (engine.assets() / "templates" / f"{name}.jinja").read_text(encoding="utf-8")
    shared = read("_cases")
    known = shared["globals"]
    now = datetime.fromisoformat(known["strftime_now"])
    for case, expected in read(name).items():
        # As Realm.render_chat does, and transformers: what a request does not give is there as None.
        variables = {"tools": None, "documents": None, **shared["cases"][case]}
        variables |= {"bos_token": known["bos_token"], "eos_token": known["eos_token"]}
        assert rendered(source, variables, now) == expected, case


def rendered(source: str, variables: dict[str, Any], now: datetime) -> dict[str, str]:
    """The output, or the error as the expectations have it."""
    try:
        return {"output": render(source, variables, now)}
    except TemplateError as problem:
        return {"error": problem.message}
