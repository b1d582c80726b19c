"""Events of choices as OpenAI's objects: whole answers and chunks of a stream."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any, Protocol

from .._api import Generation
from .._engine import DrawnToken
from .choices import Event, Finished, Piece
from .models import LoadedModel
from .replies import event

FINISH = {"end": "stop", "stop": "stop", "length": "length"}
DONE = b"data: [DONE]\n\n"

LEAST_LOGPROB = -9999.0  # JSON has no infinity; OpenAI's API says this of what cannot be drawn

Drawn = Sequence[DrawnToken]


class Output(Protocol):
    model: LoadedModel

    def whole(self, events: list[Finished]) -> dict[str, Any]: ...

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

    def usage(self) -> dict[str, int]:
        prompt = sum(self._prompt_tokens.values())
        total = prompt + self._tokens
        return {"prompt_tokens": prompt, "completion_tokens": self._tokens, "total_tokens": total}

    def closing_chunks(self, with_usage: bool) -> list[bytes]:
        return [*([self.chunk([], usage=self.usage())] if with_usage else []), DONE]

    def token_text(self, token: int) -> tuple[str, list[int]]:
        """A token's text and its bytes, which may be part of a character."""
        data = self.model.handle.detokenize_bytes([token], special=True, text_start=False)
        return data.decode("utf-8", "replace"), list(data)


class ChatOutput(Base):
    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, model: LoadedModel, likeliest: int | None) -> None:
        super().__init__(model, likeliest)
        self._begun: set[int] = set()

    def whole(self, events: list[Finished]) -> dict[str, Any]:
        for found in events:
            self.count(found)
        choices = [self._choice(found) for found in sorted(events, key=lambda found: found.index)]
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
        elif found.text or found.drawn:
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
        text, data = self.token_text(token)
        return {"token": text, "logprob": max(logprob, LEAST_LOGPROB), "bytes": data}


class TextOutput(Base):
    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def __init__(
        self, model: LoadedModel, likeliest: int | None, prompts: list[str], n: int, echo: bool
    ) -> None:
        super().__init__(model, likeliest)
        self._n = n
        self._echoed = prompts if echo else None
        self._begun: set[int] = set()
        self._offsets: dict[int, int] = {}

    def whole(self, events: list[Finished]) -> dict[str, Any]:
        for found in events:
            self.count(found)
        choices = [
            self._choice(
                found.index,
                self._echo(found.index) + found.result.text,
                found.result.finish_reason,
                pairs(found.result),
            )
            for found in sorted(events, key=lambda found: found.index)
        ]
        return {**self.head(self.kind), "choices": choices, "usage": self.usage()}

    def chunks(self, found: Event) -> list[bytes]:
        text = self._echo(found.index)
        if isinstance(found, Finished):
            self.count(found)
            return [self.chunk([self._choice(found.index, text, found.result.finish_reason, ())])]
        text += found.text
        return (
            [self.chunk([self._choice(found.index, text, None, found.drawn)])] if text or found.drawn else []
        )

    def prompt_of(self, index: int) -> int:
        return index // self._n

    def _echo(self, index: int) -> str:
        """The prompt, before a choice's first text."""
        if self._echoed is None or index in self._begun:
            return ""
        self._begun.add(index)
        return self._echoed[index]

    def _choice(self, index: int, text: str, finish: str | None, drawn: Drawn) -> dict[str, Any]:
        return {
            "index": index,
            "text": text,
            "logprobs": self._lists(index, drawn) if self._logprobs else None,
            "finish_reason": FINISH[finish] if finish else None,
        }

    def _lists(self, index: int, drawn: Drawn) -> dict[str, Any]:
        texts = [self.token_text(token.id)[0] for token in drawn]
        offsets, at = [], self._offsets.get(index, 0)
        for text in texts:
            offsets.append(at)
            at += len(text)
        self._offsets[index] = at
        tops = [self._top(token) for token in drawn if token.top]
        values = [token.logprob for token in drawn]
        return {
            "tokens": texts,
            "token_logprobs": values,
            "top_logprobs": tops or None,
            "text_offset": offsets,
        }

    def _top(self, token: DrawnToken) -> dict[str, float]:
        """By text, the chosen token always among them. Of tokens with one text the likeliest is told."""
        made: dict[str, float] = {}
        for each, logprob in (*token.top, (token.id, token.logprob)):
            made.setdefault(self.token_text(each)[0], max(logprob, LEAST_LOGPROB))
        return made


def pairs(result: Generation) -> Drawn:
    tops = result.top_logprobs or [()] * len(result.tokens)
    return [DrawnToken(*each) for each in zip(result.tokens, result.logprobs or (), tops, strict=False)]
