"""Events of choices as OpenAI's objects: whole answers and chunks of a stream."""

from __future__ import annotations

import codecs
import secrets
import time
from collections.abc import Sequence
from typing import Any, Protocol

from .._api import Generation
from .._engine import DrawnToken
from .choices import Event, Finished, Piece, Place, Prompted
from .models import LoadedModel
from .prompts import LEAST_LOGPROB, bytes_of, place_of
from .replies import event

FINISH = {"end": "stop", "stop": "stop", "length": "length"}
DONE = b"data: [DONE]\n\n"

Drawn = Sequence[DrawnToken]


class Output(Protocol):
    model: LoadedModel

    def whole(self, events: list[Event]) -> dict[str, Any]: ...

    def chunks(self, found: Event) -> list[bytes]: ...

    def closing_chunks(self, with_usage: bool) -> list[bytes]: ...


class Base:
    """What both kinds of answers share: the head of every object, and the usage of all choices."""

    prefix, kind, chunk_kind = "", "", ""

    def __init__(self, model: LoadedModel, likeliest: int | None) -> None:
        self.model = model
        self._logprobs = likeliest is not None
        self._id = f"{self.prefix}-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._prompt_tokens: dict[int, int] = {}
        self._tokens = 0

    def head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self.model.name}

    def chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        return event({**self.head(self.chunk_kind), "choices": choices, **more})

    def count(self, found: Finished) -> None:
        self._prompt_tokens[self.prompt_of(found.index)] = found.result.prompt_tokens
        self._tokens += len(found.result.tokens)

    def prompt_of(self, index: int) -> int:
        """Choices of one prompt count it once."""
        return 0

    def finished(self, events: list[Event]) -> list[Finished]:
        """Ended choices in order, counted."""
        found = sorted((each for each in events if isinstance(each, Finished)), key=lambda each: each.index)
        for each in found:
            self.count(each)
        return found

    def usage(self) -> dict[str, int]:
        prompt = sum(self._prompt_tokens.values())
        total = prompt + self._tokens
        return {"prompt_tokens": prompt, "completion_tokens": self._tokens, "total_tokens": total}

    def closing_chunks(self, with_usage: bool) -> list[bytes]:
        return [*([self.chunk([], usage=self.usage())] if with_usage else []), DONE]


class ChatOutput(Base):
    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, model: LoadedModel, likeliest: int | None) -> None:
        super().__init__(model, likeliest)
        self._begun: set[int] = set()

    def whole(self, events: list[Event]) -> dict[str, Any]:
        choices = [self._choice(found) for found in self.finished(events)]
        return {**self.head(self.kind), "choices": choices, "usage": self.usage()}

    def _choice(self, found: Finished) -> dict[str, Any]:
        result = found.result
        return {
            "index": found.index,
            "message": {"role": "assistant", "content": result.text, "refusal": None},
            "logprobs": self._content(pairs(result)) if self._logprobs else None,
            "finish_reason": FINISH[result.finish_reason],
        }

    def chunks(self, found: Event) -> list[bytes]:
        made = []
        if found.index not in self._begun:
            self._begun.add(found.index)
            made.append(self._delta(found.index, {"role": "assistant", "content": ""}, None))
        if isinstance(found, Finished):
            self.count(found)
            made.append(self._delta(found.index, {}, FINISH[found.result.finish_reason]))
        elif isinstance(found, Piece) and (found.text or found.drawn):
            made.append(self._delta(found.index, {"content": found.text}, None, found))
        return made

    def _delta(
        self, index: int, delta: dict[str, Any], finish: str | None, piece: Piece | None = None
    ) -> bytes:
        logprobs = self._content(piece.drawn) if piece and self._logprobs else None
        return self.chunk([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}])

    def _content(self, drawn: Drawn) -> dict[str, Any]:
        entries = [
            {**self._entry(token.id, token.logprob), "top_logprobs": [self._entry(*top) for top in token.top]}
            for token in drawn
        ]
        return {"content": entries, "refusal": None}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        data = bytes_of(self.model, token)
        text = data.decode("utf-8", "replace")
        return {"token": text, "logprob": max(logprob, LEAST_LOGPROB), "bytes": list(data)}


class TextOutput(Base):
    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def __init__(
        self, model: LoadedModel, likeliest: int | None, prompts: list[str], n: int, echo: bool
    ) -> None:
        super().__init__(model, likeliest)
        self._n = n
        self._echoed = prompts if echo else None
        self._begun: set[int] = set()
        self._offsets: dict[int, Offsets] = {}

    def whole(self, events: list[Event]) -> dict[str, Any]:
        prompts = {found.index: found.prompt.places for found in events if isinstance(found, Prompted)}
        choices = [
            self._choice(
                found.index,
                self._echo(found.index) + found.result.text,
                found.result.finish_reason,
                [*prompts.get(found.index, ()), *self._places(pairs(found.result)), *self._end(found)],
            )
            for found in self.finished(events)
        ]
        return {**self.head(self.kind), "choices": choices, "usage": self.usage()}

    def chunks(self, found: Event) -> list[bytes]:
        text = self._echo(found.index)
        if isinstance(found, Prompted):
            return [self.chunk([self._choice(found.index, text, None, found.prompt.places)])]
        if isinstance(found, Finished):
            self.count(found)
            return [
                self.chunk([self._choice(found.index, text, found.result.finish_reason, self._end(found))])
            ]
        text += found.text
        if not text and not found.drawn:
            return []
        return [self.chunk([self._choice(found.index, text, None, self._places(found.drawn))])]

    def prompt_of(self, index: int) -> int:
        return index // self._n

    def _echo(self, index: int) -> str:
        """The prompt, before a choice's first text."""
        if self._echoed is None or index in self._begun:
            return ""
        self._begun.add(index)
        return self._echoed[index]

    def _places(self, drawn: Drawn) -> list[Place]:
        return [place_of(self.model, token) for token in drawn] if self._logprobs else []

    def _end(self, found: Finished) -> list[Place]:
        """Who scores texts counts tokens from the end too: there the one that ended it has a place."""
        token = found.result.end_token
        return [place_of(self.model, token)] if token and self._logprobs and self._echoed is not None else []

    def _choice(self, index: int, text: str, finish: str | None, places: Sequence[Place]) -> dict[str, Any]:
        return {
            "index": index,
            "text": text,
            "logprobs": self._lists(index, places) if self._logprobs else None,
            "finish_reason": FINISH[finish] if finish else None,
        }

    def _lists(self, index: int, places: Sequence[Place]) -> dict[str, Any]:
        offsets = self._offsets.setdefault(index, Offsets())
        tops = [top_of(place) for place in places]
        return {
            "tokens": [text_at(place) for place in places],
            "token_logprobs": [place.logprob for place in places],
            "top_logprobs": tops if any(tops) else None,
            "text_offset": [offsets.next(place.data) for place in places],
        }


class Offsets:
    """Where tokens begin in a choice's text, in characters."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._at = 0

    def next(self, data: bytes) -> int:
        begin = self._at
        self._at += len(self._decoder.decode(data))
        return begin


def text_at(place: Place) -> str:
    return place.data.decode("utf-8", "replace")


def top_of(place: Place) -> dict[str, float] | None:
    """By text, the chosen token always among them. Of tokens with one text the likeliest is told."""
    if not place.top or place.logprob is None:
        return None
    made: dict[str, float] = {}
    for text, logprob in (*place.top, (text_at(place), place.logprob)):
        made.setdefault(text, logprob)
    return made


def pairs(result: Generation) -> Drawn:
    tops = result.top_logprobs or [()] * len(result.tokens)
    return [DrawnToken(*each) for each in zip(result.tokens, result.logprobs or (), tops, strict=False)]
