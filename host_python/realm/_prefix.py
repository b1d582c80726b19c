"""Public prefixes: a beginning of prompts that the application lets all tenants share, computed once.

Only the host's API leads here; no guest can publish. Whole KV pages are shared, so a few tokens at the end
of a prefix may be computed anew for each prompt. What follows in a prompt stays private to its tenant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._errors import error
from ._host_session import HostSession
from ._library import check, library, new_error
from ._options import KV_TYPES, token_ids

if TYPE_CHECKING:
    from ._engine import Engine
    from ._model import Model, SharedModel

KV_PAGE = 16  # REALM_KV_PAGE: tokens in a page
ENDINGS = ("a", "7 (b)")  # two user messages that begin differently: what they have in common is the prefix


@dataclass(frozen=True)
class PublicPrefix:
    """A published prefix. shared_tokens of its tokens are found computed by every tenant."""

    tokens: tuple[int, ...]
    shared_tokens: int
    number: int  # of the publication, in its model


def publish(
    engine: Engine, model: Model, prefix: object, add_special: bool, parse_special: bool, variables: Any
) -> PublicPrefix:
    tokens = prefix_tokens(model, prefix, add_special, parse_special, variables)
    if len(tokens) < KV_PAGE:
        raise error(
            "invalid-argument", f"a public prefix needs at least {KV_PAGE} tokens, this one has {len(tokens)}"
        )
    shared = model.shared()
    with HostSession(engine, shared, KV_TYPES[shared.kv_type]) as session:
        session.forward(tokens)
        number, count = session.publish()
    return PublicPrefix(tuple(tokens), count, number)


def unpublish(shared: SharedModel, prefix: PublicPrefix) -> None:
    err = new_error()
    check(library().realm_prefix_unpublish(shared.pointer, prefix.number, err), err)


def prefix_tokens(
    model: Model, prefix: object, add_special: bool, parse_special: bool, variables: Any
) -> list[int]:
    """Of a text as generate takes it, of messages as chat does, or the ids themselves."""
    if isinstance(prefix, (str, bytes)):
        return model.tokenize(prefix, add_special=add_special, parse_special=parse_special)
    if isinstance(prefix, Sequence) and prefix and isinstance(prefix[0], dict):
        from ._chat import (
            check_messages,
        )  # brings jinja2 along, which programs without chats need not wait for

        return conversation_tokens(model, check_messages(prefix), variables)
    return token_ids(prefix)


def conversation_tokens(model: Model, messages: list[dict[str, Any]], variables: Any) -> list[int]:
    """What every conversation that begins with these messages has in common, whatever the user says next."""
    from ._chat import render_for_model, starts_with_bos

    prompts = []
    for ending in ENDINGS:
        following = [*messages, {"role": "user", "content": ending}]
        text = render_for_model(model, following, **variables)
        special = not starts_with_bos(model, text)
        prompts.append(model.tokenize(text, add_special=special, parse_special=True))
    first, second = prompts
    common = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(first))
    return first[:common]
