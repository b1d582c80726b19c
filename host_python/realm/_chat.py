"""From a conversation to the prompt of a model: chat template, special tokens, guard around user text.

The rendered prompt is tokenized with special tokens parsed, as the template means its control tokens. What a
user or a tool wrote must never become one, so control tokens spelled out in such messages are broken up by a
zero-width space first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ._errors import error
from ._model import Model
from ._template import render

TRUSTED_ROLES = ("system", "developer", "assistant")  # written by the application or the model itself
BREAK = "\u200b"
MAX_BREAK_ROUNDS = 8
MAX_DEPTH = 64  # of message data


def render_for_model(
    model: Model,
    messages: Sequence[dict[str, Any]],
    tools: Sequence[dict[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    chat_template: str | None = None,
    variables: dict[str, Any] | None = None,
) -> str:
    source = chat_template if chat_template is not None else model.chat_template
    if source is None:
        raise error("template-error", "the model has no chat template; pass chat_template, or use generate")
    return render(
        source,
        {
            "messages": [guard_message(model, message) for message in check_messages(messages)],
            "tools": list(tools) if tools is not None else None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            "bos_token": token_text(model, model.info.bos),
            "eos_token": token_text(model, model.info.eos),
            **(variables or {}),
        },
    )


def starts_with_bos(model: Model, prompt: str) -> bool:
    """Then the tokenizer must not add a second one."""
    bos = token_text(model, model.info.bos)
    return bool(bos) and prompt.startswith(bos)


def token_text(model: Model, token: int | None) -> str:
    return "" if token is None else model.detokenize([token], special=True, text_start=False)


def check_messages(messages: object) -> list[dict[str, Any]]:
    if isinstance(messages, (str, bytes)) or not isinstance(messages, Sequence) or not messages:
        raise error(
            "invalid-argument", "messages must be a list of dicts with 'role' and 'content', and not empty"
        )
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise error(
                "invalid-argument", f"a message must be a dict with 'role' and 'content', not {message!r:.80}"
            )
    return list(messages)


# ---- the guard ----


def guard_message(model: Model, message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] in TRUSTED_ROLES:
        return message
    return {name: _guard(model, value, 0) if name != "role" else value for name, value in message.items()}


def _guard(model: Model, value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise error("invalid-argument", "a message is nested too deeply")
    if isinstance(value, str):
        return break_control_tokens(model, value)
    if isinstance(value, dict):
        return {name: _guard(model, item, depth + 1) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_guard(model, item, depth + 1) for item in value]
    return value


def break_control_tokens(model: Model, text: str) -> str:
    """The same text, with a zero-width space inside whatever the tokenizer would read as a control token."""
    for _ in range(MAX_BREAK_ROUNDS):
        spelled = _control_tokens(model, text)
        if not spelled:
            return text
        for token in spelled:
            text = text.replace(token, token[:1] + BREAK + token[1:])
    raise error("invalid-argument", "a message consists of control tokens that cannot be told from its text")


def _control_tokens(model: Model, text: str) -> list[str]:
    """How the control tokens in a text are spelled, the longest first; [] for nearly every text."""
    parsed = model.tokenize(text, parse_special=True)
    if parsed == model.tokenize(text):
        return []
    found = set()
    for token in set(parsed):
        spelled = token_text(model, token)
        if len(spelled) > 1 and spelled in text and not model.detokenize_bytes([token], text_start=False):
            found.add(spelled)
    return sorted(found, key=len, reverse=True)
