"""Chat templates against what transformers renders (make_templates.py), errors included."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest
from realm import TemplateError
from realm._template import render

from tests.unit import engine

VECTORS: dict[str, Any] = json.loads((engine.VECTORS / "templates.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("conversation", VECTORS["conversations"])
@pytest.mark.parametrize("name", VECTORS["templates"])
def test_template(name: str, conversation: str) -> None:
    expected = VECTORS["expected"][name][conversation]
    variables = {"tools": None, "documents": None, **VECTORS["conversations"][conversation]}
    variables |= {"bos_token": VECTORS["bos_token"], "eos_token": VECTORS["eos_token"]}
    now = datetime.fromisoformat(VECTORS["now"])
    if "output" in expected:
        assert render(VECTORS["templates"][name], variables, now) == expected["output"]
        return
    with pytest.raises(TemplateError) as caught:
        render(VECTORS["templates"][name], variables, now)
    kind, text = expected["error"].split(": ", 1)
    assert caught.value.code == "template-error"
    # A syntax error names its line, which says more than its class.
    assert caught.value.message == (f"line 1: {text}" if kind == "TemplateSyntaxError" else expected["error"])
