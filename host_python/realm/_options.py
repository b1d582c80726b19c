"""The settings a caller passes: resource limits, how tokens are drawn. Values are checked here once."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ._errors import error

MODES = {"granular": 0, "whole": 1, "layers": 2}  # enum mode
KV_TYPES = {"f16": 0, "f32": 1}
MAX_WEIGHT = 10_000
MOST_TOP_LOGPROBS = 20  # as OpenAI's API; the core allows a few more
CPU_FEATURES = {  # REALM_CPU_... of realm.h
    "portable": 1, "avx2": 2, "avx512": 4, "amx": 8, "avxvnni": 1 << 4,
    "neon-dotprod": 1 << 8, "neon-i8mm": 1 << 9,
}  # fmt: skip


@dataclass(frozen=True)
class ResourceLimits:
    """What a tenant may use. 0: no limit of its own; the runtime's and the model's limits always hold."""

    # of the tenant, over all its realms; a change holds at once, also for what runs
    weight: int = 1  # share of computed tokens where there is more work than fits
    concurrent_requests: int = 0  # that compute at once
    queue_length: int = 0  # requests that may wait beyond those
    context_length: int = 0  # most tokens of a conversation
    kv_tokens: int = 0  # tokens whose KV is held
    tokens_per_second: int = 0  # computed, prompt and generated
    tokens_per_minute: int = 0
    models: tuple[str, ...] | None = None  # paths or names of those it may load; None: any
    own_guest: bool = False  # may bring guest modules of its own
    # of one realm
    sessions: int = 0
    tickets: int = 0
    tensor_bytes: int = 256 << 20
    guest_memory_bytes: int = 16 << 20
    guest_seconds: float = 2.0  # longest single call into the guest
    text_bytes: int = 16 << 20  # text waiting to be read

    def __post_init__(self) -> None:
        for name in (
            "kv_tokens",
            "tokens_per_second",
            "tokens_per_minute",
            "tensor_bytes",
            "guest_memory_bytes",
            "text_bytes",
        ):
            _whole_number(name, getattr(self, name), 0, (1 << 63) - 1)
        for name in ("concurrent_requests", "queue_length", "context_length", "sessions", "tickets"):
            _whole_number(name, getattr(self, name), 0, 0xFFFFFFFF)
        _whole_number("weight", self.weight, 0, MAX_WEIGHT)
        if not 0 < self.guest_seconds <= 3600:
            raise error("invalid-argument", f"guest_seconds must be in (0, 3600], not {self.guest_seconds!r}")
        if isinstance(self.models, str):
            raise error("invalid-argument", "models must be a sequence of paths or names, not one text")

    def allows_model(self, path: Path) -> bool:
        """Whether a model file is one of those named, by its path or name (the ending may be missing)."""
        if self.models is None:
            return True
        names = {path.name, path.stem}
        return any(name in names or Path(name).resolve() == path.resolve() for name in self.models)


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn; 0 or 1 switches a filter off as in realm.wit."""

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_window: int = 0
    seed: int | None = None  # None: a new one for each request
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    ignore_end: bool = False

    def __post_init__(self) -> None:
        _number("temperature", self.temperature, 0.0, 1e6)
        _whole_number("top_k", self.top_k, 0, 0xFFFFFFFF)
        _number("top_p", self.top_p, 0.0, 1.0, open_low=True)
        _number("min_p", self.min_p, 0.0, 1.0)
        _number("repetition_penalty", self.repetition_penalty, 0.0, 1e6, open_low=True)
        _number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _whole_number("penalty_window", self.penalty_window, 0, 0xFFFFFFFF)
        if self.seed is not None:
            _whole_number("seed", self.seed, 0, (1 << 64) - 1)
        if not isinstance(self.logit_bias, Mapping):
            raise error(
                "invalid-argument", f"logit_bias must map token ids to numbers, not {self.logit_bias!r:.80}"
            )
        for token, value in self.logit_bias.items():
            _whole_number("logit_bias token", token, 0, 0xFFFFFFFF)
            if not isinstance(value, (int, float)) or math.isnan(value) or value == math.inf:
                raise error(
                    "invalid-argument", f"logit_bias of token {token} must be a number or -inf, not {value!r}"
                )

    def actual_seed(self) -> int:
        return secrets.randbits(64) if self.seed is None else self.seed


def check_max_tokens(value: object) -> int:
    return _whole_number("max_tokens", value, 1, 0xFFFFFFFF)


def choice(name: str, value: str, allowed: Mapping[str, int]) -> int:
    if value not in allowed:
        raise error("invalid-argument", f"{name} must be one of {', '.join(allowed)}, not {value!r}")
    return allowed[value]


def check_top_logprobs(value: object, mode: str | None, vocab_size: int) -> int:
    """The engine's own loop tells of chosen tokens alone; where the guest samples, there are logits."""
    found = _whole_number("top_logprobs", value, 0, MOST_TOP_LOGPROBS)
    if found and mode == "whole":
        raise error("invalid-argument", "top_logprobs needs mode granular or layers")
    return min(found, vocab_size)


def check_priority(value: object) -> int:
    return _whole_number("priority", value, 0, 0xFFFFFFFF)


def check_deadline(value: float | None) -> float | None:
    """Seconds from the request's start."""
    if value is not None:
        _number("deadline", value, 0.0, 1e6, open_low=True)
    return value


def token_ids(ids: object) -> list[int]:
    """A list of token ids from any iterable of whole numbers (a numpy array too)."""
    try:
        found = [int(token) for token in ids]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise error("invalid-argument", "token ids must be a sequence of whole numbers") from None
    for token in found:
        _whole_number("token id", token, 0, 0xFFFFFFFF)
    return found


def _whole_number(name: str, value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise error("invalid-argument", f"{name} must be a whole number from {low} to {high}, not {value!r}")
    return value


def _number(name: str, value: object, low: float, high: float, *, open_low: bool = False) -> None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
    if not good or (open_low and value == low):
        bracket = "(" if open_low else "["
        raise error("invalid-argument", f"{name} must be in {bracket}{low:g}, {high:g}], not {value!r}")
