"""Scores: the log probability of each token of a given text, and the likeliest tokens at its place.

A host session computes the logits piece by piece, so that memory stays bounded whatever the length. It counts
against the tenant's limits like any request, and what it computed is in the tenant's prefix cache afterwards.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ._engine import DrawnToken, Engine
from ._errors import error, limit_error
from ._host_session import HostSession
from ._library import library
from ._model import Model
from ._options import ResourceLimits, check_top_logprobs, token_ids

if TYPE_CHECKING:
    import numpy

PIECE_FLOATS = 1 << 20  # logits that are held at once


class Scoring:
    """One text. run() waits in its thread, arun() in an event loop; ending either early ends the work."""

    def __init__(
        self,
        engine: Engine,
        tenant: int,
        model: Model,
        limits: ResourceLimits,
        ids: object,
        top: int,
        priority: int = 0,
        deadline: float | None = None,
    ) -> None:
        self._ids = token_ids(ids)
        self._vocab = model.info.vocab_size
        self._top = check_top_logprobs(top, "granular", self._vocab)
        self._check_length(model.info.context_length, limits.context_length)
        self._session = HostSession(
            engine,
            model.shared(),
            library().REALM_KV_MODEL,
            tenant=tenant,
            priority=priority,
            deadline=deadline,
        )

    def run(self) -> tuple[DrawnToken, ...]:
        with self._session as session:
            scores = self._first()
            for piece, following in self._pieces():
                scores += scores_of(session.logits(piece, self._vocab), following, self._top)
        return tuple(scores)

    async def arun(self) -> tuple[DrawnToken, ...]:
        try:
            scores = self._first()
            for piece, following in self._pieces():
                logits, done = self._session.begin_logits(piece, self._vocab)
                await asyncio.shield(asyncio.wrap_future(done))
                scores += await asyncio.to_thread(scores_of, logits, following, self._top)
        finally:
            self._session.close()
        return tuple(scores)

    def _check_length(self, context: int, own: int) -> None:
        """Before anything is computed, not at the piece that would be too much."""
        count = len(self._ids)
        if not count:
            raise error("invalid-argument", "there is nothing to score: give at least one token id")
        if own and own < context and count > own:
            message = f"{count} tokens do not fit the tenant's limit of {own}"
            raise limit_error("context-full", message, "context_length", own)
        if count > context:
            raise error("context-full", f"{count} tokens do not fit the model's context of {context}")

    def _first(self) -> list[DrawnToken]:
        return [DrawnToken(self._ids[0], math.nan)]

    def _pieces(self) -> Iterator[tuple[list[int], list[int]]]:
        """Tokens to compute, and those that follow each of them. Nothing follows the last one."""
        size = max(1, PIECE_FLOATS // self._vocab)
        for at in range(0, len(self._ids) - 1, size):
            following = self._ids[at + 1 : at + 1 + size]
            yield self._ids[at : at + len(following)], following


def scores_of(logits: numpy.ndarray[Any, Any], following: list[int], top: int) -> list[DrawnToken]:
    """logits (n, vocab) f32, and the n tokens that came next."""
    return [score(row, token, top) for row, token in zip(logits, following, strict=True)]


def score(logits: numpy.ndarray[Any, Any], token: int, top: int) -> DrawnToken:
    import numpy

    largest = float(logits.max())
    total = largest + math.log(float(numpy.exp(logits - largest, dtype=numpy.float64).sum()))
    likeliest = [(int(i), float(logits[i]) - total) for i in largest_of(logits, top)] if top else []
    return DrawnToken(token, float(logits[token]) - total, tuple(likeliest))


def largest_of(values: numpy.ndarray[Any, Any], count: int) -> numpy.ndarray[Any, Any]:
    """Indices of the largest, the largest first, of equal ones the lower index, as the core orders them."""
    import numpy

    least = numpy.partition(values, len(values) - count)[len(values) - count]
    candidates = numpy.flatnonzero(values >= least)
    order = numpy.argsort(-values[candidates], kind="stable")
    found: numpy.ndarray[Any, Any] = candidates[order[:count]]
    return found
