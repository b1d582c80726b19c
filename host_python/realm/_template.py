"""Renders chat templates, which come inside model files and are hostile until proven otherwise.

The environment is the one HF transformers renders with (immutable sandbox, trimmed blocks, loop controls).
The sandbox keeps a template from reaching Python; a budget bounds its time and memory on top: the compiled
template tells it of every loop step, call, filter, operator and output, and whatever could make a large
value out of a small one is measured beforehand.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sized
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache, partial
from typing import Any, cast

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ._errors import RealmError, error

MAX_SOURCE = 256 << 10  # the longest template known has 16 KiB
MAX_VALUE = 4 << 20  # one string or list a template makes
MAX_BYTES = 64 << 20  # everything a template makes, besides a multiple of what it is given
MAX_OPERATIONS = 2_000_000
MAX_SECONDS = 2.0
MAX_INTEGER_BITS = 4096
INPUT_FACTOR = 64
LIST_ITEM_BYTES = 16

# Of no use in a chat template, and slow or large on hostile input.
REMOVED_FILTERS = ("urlize", "wordwrap", "xmlattr", "pprint", "random", "striptags")
REMOVED_GLOBALS = ("lipsum",)


class BudgetError(Exception):
    """The template is over its limits."""


class Budget:
    """What one rendering may still spend."""

    def __init__(self, input_bytes: int) -> None:
        self.deadline = time.monotonic() + MAX_SECONDS
        self.operations = MAX_OPERATIONS
        self.bytes = MAX_BYTES + INPUT_FACTOR * input_bytes
        self.value_limit = MAX_VALUE + 4 * input_bytes

    def step(self, size: int = 0) -> None:
        self.operations -= 1
        self.bytes -= size
        if self.operations < 0:
            raise BudgetError("the chat template takes too many steps")
        if self.bytes < 0:
            raise BudgetError("the chat template makes too much text")
        if time.monotonic() > self.deadline:
            raise BudgetError("the chat template takes too long")

    def reserve(self, size: int) -> None:
        """Before a value of this size is made."""
        if size > self.value_limit:
            raise BudgetError("the chat template makes too large a value")
        self.step(size)

    def made(self, value: Any) -> Any:
        """After a value was made; returns it."""
        if isinstance(value, (str, bytes)):
            self.reserve(len(value))
        elif isinstance(value, (list, tuple, dict, set)):
            self.reserve(LIST_ITEM_BYTES * len(value))
        elif isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
            raise BudgetError("the chat template makes too large a number")
        else:
            self.step()
        return value


_budget: ContextVar[Budget] = ContextVar("realm_template_budget")


def render(source: str, variables: dict[str, Any], now: datetime | None = None) -> str:
    """The text a template makes of the variables. Every failure is a template-error."""
    budget = Budget(_input_size(variables))
    token = _budget.set(budget)
    try:
        template = _compile(source)
        pieces = []
        for piece in template.generate(**variables, strftime_now=partial(_strftime, now)):
            budget.reserve(len(piece))
            pieces.append(piece)
        budget.reserve(sum(map(len, pieces)))
        return "".join(pieces)
    except RealmError:
        raise
    except BudgetError as problem:
        raise error("template-error", str(problem)) from None
    except jinja2.TemplateSyntaxError as problem:
        raise error("template-error", f"line {problem.lineno}: {problem.message}") from None
    except (MemoryError, RecursionError):
        raise error(
            "template-error", "the chat template is nested too deeply or makes too large a value"
        ) from None
    except Exception as problem:  # a template can raise anything Python's operators can
        raise error("template-error", f"{type(problem).__name__}: {_one_line(problem)}") from None
    finally:
        _budget.reset(token)


@lru_cache(maxsize=16)
def _compile(source: str) -> jinja2.Template:
    if len(source) > MAX_SOURCE:
        raise BudgetError(f"the chat template is longer than {MAX_SOURCE} characters")
    return Environment().from_string(source)


def _one_line(problem: BaseException) -> str:
    return " ".join(str(problem).split())[:500]


def _input_size(variables: dict[str, Any]) -> int:
    try:
        return len(json.dumps(variables, default=str, ensure_ascii=False))
    except (TypeError, ValueError, RecursionError):
        raise error(
            "invalid-argument", "chat messages must be plain data: dict, list, str, numbers"
        ) from None


# ---- the environment ----


class Environment(ImmutableSandboxedEnvironment):
    """HF's environment, with the budget in every place where a template can spend."""

    # All of them: an operator that is not intercepted is folded at compile time, where no budget holds.
    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "%", "**"])
    intercepted_unops = frozenset(["+", "-"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _GenerationTag],
            optimized=False,  # constants are computed under the budget too
            finalize=_finalize,
        )
        for name in REMOVED_FILTERS:
            self.filters.pop(name, None)
        for name in REMOVED_GLOBALS:
            self.globals.pop(name, None)
        self.filters = {name: _guarded_filter(name, function) for name, function in self.filters.items()}
        self.filters["tojson"] = _tojson
        self.filters[_Instrument.COUNT] = _counted
        self.filters[_Instrument.MEASURE] = lambda value: _budget.get().made(value)
        self.globals["raise_exception"] = _raise_exception

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        _Instrument.rewrite(template, self.macro_sizes)
        return template

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        budget = _budget.get()
        if operator == "*":
            budget.reserve(_product_size(left, right))
        elif operator == "**":
            _check_power(left, right)
        elif operator == "%" and isinstance(left, (str, bytes)):
            _check_format(left, right)
        return budget.made(super().call_binop(context, operator, left, right))

    def call_unop(self, context: Any, operator: str, argument: Any) -> Any:
        return _budget.get().made(super().call_unop(context, operator, argument))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        # The odd names keep `self`, `context` and `obj` free for keyword arguments, as in jinja2.
        budget = _budget.get()
        if isinstance(__obj, Macro):
            budget.step(__self.macro_sizes.get(__obj.name, 0))
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, (str, bytes)):
            _check_text_method(owner, __obj.__name__, args, kwargs)
        return budget.made(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """The sandbox's own str.format, with its widths checked."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def run(*args: Any, **kwargs: Any) -> str:
            _check_format(value.__self__, (*args, *kwargs.values()))
            return wrapped(*args, **kwargs)

        return run

    @property
    def macro_sizes(self) -> dict[str, int]:
        """Bytes of literal text in the template's macros; the largest of a name."""
        sizes: dict[str, int] = self.__dict__.setdefault("_macro_sizes", {})
        return sizes


class _GenerationTag(Extension):
    """`{% generation %}` marks the assistant's part for training; rendering it changes nothing."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> list[nodes.Node]:
        next(parser.stream)
        body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return body


class _Instrument:
    """Rewrites a parsed template so that loop steps and concatenations are counted."""

    COUNT = "realm counted"  # not names a template could write
    MEASURE = "realm measured"

    @classmethod
    def rewrite(cls, template: nodes.Template, macro_sizes: dict[str, int]) -> None:
        for block in template.find_all((nodes.Macro, nodes.CallBlock)):
            name = block.name if isinstance(block, nodes.Macro) else "caller"
            macro_sizes[name] = max(macro_sizes.get(name, 0), _literal_size(block))
        for loop in list(template.find_all(nodes.For)):
            loop.iter = cls._filter(loop.iter, cls.COUNT, [nodes.Const(_literal_size(loop))])
        for parent in list(template.find_all(nodes.Node)):
            cls._measure_concats(parent)

    @classmethod
    def _measure_concats(cls, parent: nodes.Node) -> None:
        for name, value in parent.iter_fields():
            if isinstance(value, nodes.Concat):
                setattr(parent, name, cls._filter(value, cls.MEASURE, []))
            elif isinstance(value, list):
                value[:] = [
                    cls._filter(v, cls.MEASURE, []) if isinstance(v, nodes.Concat) else v for v in value
                ]

    @staticmethod
    def _filter(node: nodes.Node, name: str, args: list[nodes.Expr]) -> nodes.Filter:
        return nodes.Filter(cast(nodes.Expr, node), name, args, [], None, None, lineno=node.lineno)


def _literal_size(node: nodes.Node) -> int:
    return sum(len(data.data) for data in node.find_all(nodes.TemplateData))


@jinja2.pass_context  # so that jinja2 computes no output at compile time
def _finalize(context: Any, value: Any) -> Any:
    if not isinstance(value, str):
        value = str(_budget.get().made(value))
    return _budget.get().made(value)


def _counted(value: Any, literal_size: int) -> Iterator[Any]:
    return _count_steps(iter(value), literal_size)


def _count_steps(iterator: Iterator[Any], literal_size: int) -> Iterator[Any]:
    budget = _budget.get()
    for item in iterator:
        budget.step(literal_size)
        yield item


def _guarded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter with its arguments checked before and its result after."""
    passes = getattr(function, "jinja_pass_arg", None)
    skip = 1 if passes is not None else 0

    def run(*args: Any, **kwargs: Any) -> Any:
        _check_filter(name, args[skip:], kwargs)
        return _budget.get().made(function(*args, **kwargs))

    if passes is not None:
        run.jinja_pass_arg = passes  # type: ignore[attr-defined]
    return run


# ---- what can make much out of little ----


def _check_filter(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    budget = _budget.get()
    value = args[0] if args else None
    for argument in (*args[1:], *kwargs.values()):
        if isinstance(argument, int) and not isinstance(argument, bool) and name not in ("default", "d"):
            budget.reserve(abs(argument))  # widths and counts: center, indent, batch, slice, round, ...
    if name == "join":
        separator = args[1] if len(args) > 1 else kwargs.get("d", "")
        budget.reserve(
            _joined_size(value, separator, kwargs.get("attribute", args[2] if len(args) > 2 else None))
        )
    elif name == "replace" and len(args) > 2:
        budget.reserve(_replaced_size(str(value), str(args[1]), str(args[2])))
    elif name == "indent":
        width = args[1] if len(args) > 1 else kwargs.get("width", 4)
        text = str(value)
        budget.reserve(
            len(text) + (text.count("\n") + 1) * (width if isinstance(width, int) else len(str(width)))
        )
    elif name == "format":
        _check_format(str(value), args[1:])
    elif isinstance(value, Iterator) or name in ("list", "sort", "unique", "sum", "map"):
        budget.step(LIST_ITEM_BYTES * len(value) if isinstance(value, Sized) else 0)


def _check_text_method(
    owner: str | bytes, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    budget = _budget.get()
    if method in ("center", "ljust", "rjust", "zfill", "expandtabs"):
        width = max((a for a in args if isinstance(a, int)), default=8)
        budget.reserve(len(owner) + width * (len(owner) if method == "expandtabs" else 1))
    elif method == "join" and args:
        budget.reserve(_joined_size(args[0], owner, None))
    elif method == "replace" and len(args) > 1 and isinstance(args[0], type(owner)):
        budget.reserve(_replaced_size(owner, args[0], args[1]))
    elif method in ("format", "format_map"):
        _check_format(owner, args)
    elif method == "translate":
        raise SecurityError("str.translate is not available in a chat template")
    elif method in ("split", "rsplit", "splitlines"):
        budget.step(4 * len(owner))  # a short string object for every few characters


def _joined_size(value: Any, separator: Any, attribute: Any) -> int:
    """An upper bound; items that are no strings are measured when they are made into one."""
    if isinstance(value, (str, bytes)):
        return len(value) * (1 + len(str(separator)))
    if not isinstance(value, (list, tuple, dict)) or attribute is not None:
        return (
            0  # an iterator: its items were counted one by one; what joins attributes is measured afterwards
        )
    return sum(len(v) if isinstance(v, (str, bytes)) else 8 for v in value) + len(str(separator)) * len(value)


def _replaced_size(text: Any, old: Any, new: Any) -> int:
    count = text.count(old) if old else len(text) + 1
    return len(text) + int(count) * len(new)


def _product_size(left: Any, right: Any) -> int:
    if isinstance(left, int) and isinstance(right, int):
        return 0  # `made` looks at the bits of the result, and both factors passed it before
    for value, count in ((left, right), (right, left)):
        if isinstance(value, (str, bytes, list, tuple)) and isinstance(count, int):
            return max(0, count) * len(value) * (1 if isinstance(value, (str, bytes)) else LIST_ITEM_BYTES)
    return 0


def _check_power(base: Any, exponent: Any) -> None:
    whole = isinstance(base, int) and isinstance(exponent, int)
    if whole and exponent > 0 and base.bit_length() * exponent > MAX_INTEGER_BITS:
        raise BudgetError("the chat template makes too large a number")


def _check_format(template: str | bytes, values: Any) -> None:
    """A format may not ask for a width of more than three digits, nor take one from its arguments."""
    text = template if isinstance(template, str) else template.decode("latin-1")
    if re.search(r"%[^a-zA-Z%]*(\d{4,}|\*)", text) or re.search(r"\{[^}]*:[^}]*(\d{4,}|\{)", text):
        raise BudgetError("the chat template formats with too large a width")
    size = sum(len(v) for v in _all_values(values) if isinstance(v, (str, bytes)))
    _budget.get().reserve(len(text) + size * (1 + text.count("%") + text.count("{")) + 1000 * text.count("%"))


def _all_values(values: Any) -> Any:
    if isinstance(values, dict):
        return values.values()
    return values if isinstance(values, (list, tuple)) else [values]


# ---- what templates may call ----


def _raise_exception(message: object) -> None:
    raise jinja2.TemplateError(str(message))


def _strftime(now: datetime | None, pattern: str) -> str:
    if len(str(pattern)) > 200:
        raise BudgetError("the chat template uses too long a date format")
    return (now or datetime.now()).strftime(pattern)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """HF's tojson: no escaping for HTML, no ASCII escaping."""
    budget = _budget.get()
    if indent is not None and (len(indent) if isinstance(indent, str) else indent) > 16:
        raise BudgetError("the chat template indents JSON too deeply")
    pieces, size = [], 0
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    for piece in encoder.iterencode(value):
        size += len(piece)
        budget.reserve(size if size > budget.value_limit else len(piece))
        pieces.append(piece)
    return "".join(pieces)
