"""Every error this package raises, each with a stable `code` from realm.wit.

RealmError
├── ArgumentError     invalid-argument, invalid-handle (also a ValueError)
├── ModelError        not-found, io, invalid-gguf, unsupported-gguf, unsupported-tensor-type,
│                     unsupported-architecture, unsupported-tokenizer, invalid-model, invalid-tokenizer,
│                     no-weights
├── LimitError        out-of-memory, context-full, limit-exceeded, busy
├── CancelledError    cancelled
├── ClosedError       closed
├── GuestError        stalled, timed-out, guest-trap, guest-memory, guest-invalid
├── TemplateError     template-error
├── DeviceError       device-lost
├── UnsupportedError  backend-unavailable, unsupported
└── InternalError     internal
"""

from __future__ import annotations

from typing import Any


class RealmError(Exception):
    """The base of all errors; `code` is the same in every host, the message is for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def message(self) -> str:
        return str(self.args[0])

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, self.message)


class ArgumentError(RealmError, ValueError):
    """A value or handle the caller passed is not acceptable."""


class ModelError(RealmError):
    """A model file is missing, broken, or of a kind Realm cannot run."""


class LimitError(RealmError):
    """A limit of the realm, the model or the machine would be exceeded.

    `limit` names it as ResourceLimits does ("deadline" is that of the request, in milliseconds), `value` is
    what it is set to, `retry_after` the seconds after which to try again; each None where not known.
    """

    limit: str | None = None
    value: int | None = None
    retry_after: float | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        said = {"limit": self.limit, "value": self.value, "retry_after": self.retry_after}
        return type(self), (self.code, self.message), said


class CancelledError(RealmError):
    """The work was cancelled."""


class ClosedError(RealmError):
    """The object was closed before."""


class GuestError(RealmError):
    """The guest module misbehaved; its realm is gone, others are unharmed."""


class TemplateError(RealmError):
    """The chat template is missing, broken or over its limits."""


class DeviceError(RealmError):
    """The device that computed was lost; loading the model again recovers."""


class UnsupportedError(RealmError):
    """Not possible with this model, machine or build."""


class InternalError(RealmError):
    """A fault of Realm itself."""


FAMILIES: dict[type[RealmError], tuple[str, ...]] = {
    ArgumentError: ("invalid-argument", "invalid-handle"),
    ModelError: (
        "not-found",
        "io",
        "invalid-gguf",
        "unsupported-gguf",
        "unsupported-tensor-type",
        "unsupported-architecture",
        "unsupported-tokenizer",
        "invalid-model",
        "invalid-tokenizer",
        "no-weights",
    ),
    LimitError: ("out-of-memory", "context-full", "limit-exceeded", "busy"),
    CancelledError: ("cancelled",),
    ClosedError: ("closed",),
    GuestError: ("stalled", "timed-out", "guest-trap", "guest-memory", "guest-invalid"),
    TemplateError: ("template-error",),
    DeviceError: ("device-lost",),
    UnsupportedError: ("backend-unavailable", "unsupported"),
    InternalError: ("internal",),
}

_FAMILY_OF = {code: family for family, codes in FAMILIES.items() for code in codes}


def error(code: str, message: str) -> RealmError:
    """The error of the family a code belongs to."""
    return _FAMILY_OF.get(code, RealmError)(code, message)


def limit_error(
    code: str, message: str, limit: str | None, value: int | None = None, retry_after: float | None = None
) -> RealmError:
    """The same for a code that is about a limit."""
    made = error(code, message)
    if isinstance(made, LimitError) and limit:
        made.limit, made.value, made.retry_after = limit, value, retry_after
    return made
