"""Prompts of /v1/completions: texts, or token ids, which become the text that gives exactly these ids; and
their log probabilities for `echo`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .._engine import DrawnToken
from .._model import encode_text
from .choices import Place, Scored
from .errors import ApiError
from .models import LoadedModel

LEAST_LOGPROB = -9999.0  # JSON has no infinity; OpenAI's API says this of what cannot be drawn
MOST_SCORED = 16_384  # tokens of all prompts of a request


@dataclass(frozen=True)
class Prompt:
    """What a realm is given. Ids are as they stand: no token is put before them, and control tokens count."""

    text: str  # for `echo`
    data: bytes
    from_ids: bool = False

    def tokens(self, model: LoadedModel) -> list[int]:
        return model.handle.tokenize(self.data, add_special=not self.from_ids, parse_special=self.from_ids)


def read_prompts(model: LoadedModel, given: Sequence[str | list[int]]) -> list[Prompt]:
    return [
        Prompt(each, encode_text(each)) if isinstance(each, str) else from_ids(model, each) for each in given
    ]


def from_ids(model: LoadedModel, ids: list[int]) -> Prompt:
    handle = model.handle
    if not ids or not all(0 <= token < handle.info.vocab_size for token in ids):
        raise ApiError(
            400, f"token ids are at least one number below {handle.info.vocab_size}", param="prompt"
        )
    for text_start in (True, False):
        data = handle.detokenize_bytes(ids, special=True, text_start=text_start)
        prompt = Prompt(data.decode("utf-8", "replace"), data, from_ids=True)
        if prompt.tokens(model) == ids:
            return prompt
    raise ApiError(
        400,
        "these token ids are not how the model's tokenizer writes their text; send the text",
        code="unsupported_parameter",
        param="prompt",
    )


def check_scored(model: LoadedModel, prompts: Sequence[Prompt]) -> None:
    total = sum(len(prompt.tokens(model)) for prompt in prompts)
    if total > MOST_SCORED:
        raise ApiError(
            400,
            f"echo with logprobs is for {MOST_SCORED} prompt tokens at most, these are {total}",
            param="echo",
        )


def scored(model: LoadedModel, prompt: Prompt, scores: Sequence[DrawnToken]) -> Scored:
    """The tokens of the prompt's own text: one that was only put before it is left out."""
    added = len(scores) > 0 and not prompt.from_ids and scores[0].id == model.handle.info.bos
    shown = scores[1:] if added else scores
    places = [place_of(model, token) for token in shown]
    if places and not prompt.data.startswith(places[0].data):  # the space that some tokenizers put first
        first = model.handle.detokenize_bytes([shown[0].id], special=True, text_start=True)
        places[0] = Place(first, places[0].logprob, places[0].top)
    return Scored(places, len(scores))


def place_of(model: LoadedModel, token: DrawnToken) -> Place:
    top = tuple((text_of(model, each), max(logprob, LEAST_LOGPROB)) for each, logprob in token.top)
    logprob = None if math.isnan(token.logprob) else max(token.logprob, LEAST_LOGPROB)
    return Place(bytes_of(model, token.id), logprob, top)


def bytes_of(model: LoadedModel, token: int) -> bytes:
    """They may be part of a character."""
    return model.handle.detokenize_bytes([token], special=True, text_start=False)


def text_of(model: LoadedModel, token: int) -> str:
    return bytes_of(model, token).decode("utf-8", "replace")
