"""The public class `Realm`: one sandboxed tenant, on models shared with the whole process.

Realm.generate -> Engine.start -> the guest's start, then polls (in the shim) -> Ended -> Generation
"""

from __future__ import annotations

import codecs
import os
import queue
import struct
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._engine import (
    FINISH_FAILED,
    Delivery,
    Drawn,
    DrawnToken,
    Ended,
    Engine,
    EngineOptions,
    Request,
    RequestSpec,
    next_delivery,
    wait_for_end,
)
from ._errors import error, limit_error
from ._library import ffi, library
from ._model import Model, ModelOptions, Progress, demo_model_path, encode_text
from ._options import (
    CPU_FEATURES,
    KV_TYPES,
    MODES,
    ResourceLimits,
    Sampling,
    check_deadline,
    check_max_tokens,
    check_priority,
    check_top_logprobs,
    choice,
    token_ids,
)
from ._process import Process, check_same_process
from ._tenant import TenantStats, set_tenant_limits, tenant_number, tenant_stats

if TYPE_CHECKING:
    import asyncio

    import numpy

    from ._guest import Guest
    from ._score import Scoring

FINISH = ("end", "stop", "length", "cancelled", "failed")  # enum finish
BACKENDS = ("auto", "cpu")
MAX_THREADS = 1024
LONG_PROMPT_BYTES = 64 << 10

CHAT_SETTINGS = ("max_tokens", "stop", "mode", "logprobs", "top_logprobs", "priority", "deadline")

Message = dict[str, Any]


@dataclass(frozen=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Timings:
    """Seconds from the request's start in the guest; then what the engine did for it, by its own clock."""

    first_token_seconds: float
    total_seconds: float
    queued_seconds: float = 0.0  # until the first step that computed for it: places, rates, the schedule
    prefill_seconds: float = 0.0  # from there until its prompt was computed
    decode_seconds: float = 0.0  # the rest, in which its tokens were drawn
    step_seconds: float = 0.0  # of both, steps with rows of it
    steps: int = 0
    rows: int = 0  # its own, in those steps

    def tokens_per_second(self, tokens: int) -> float:
        """Of the generated tokens after the first one."""
        rest = self.total_seconds - self.first_token_seconds
        return (tokens - 1) / rest if tokens > 1 and rest > 0 else 0.0


@dataclass(frozen=True)
class Generation:
    """The result of one request. finish_reason: end (by the model), stop (a stop string), length."""

    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    finish_reason: str
    timings: Timings
    logprobs: tuple[float, ...] | None = None  # of each of the tokens, when asked for
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...] | None = None  # the likeliest ids at each place
    end_token: DrawnToken | None = None  # with logprobs: what ended it, which is not among the tokens

    @property
    def usage(self) -> Usage:
        return Usage(self.prompt_tokens, len(self.tokens))

    def __str__(self) -> str:
        return self.text


class Realm:
    """A tenant: its own sandboxed guest and limits; weights are shared. Close it, or use it in a `with`."""

    def __init__(
        self,
        model: Model | str | os.PathLike[str] | None = None,
        *,
        backend: str = "auto",
        threads: int | None = None,
        limits: ResourceLimits | None = None,
        cpu_features: Sequence[str] | None = None,
        tenant: int | None = None,
        kv_bytes: int = 0,
        shim: str = "native",
        executor: int = 0,
    ) -> None:
        from ._guest import Guest  # loads wasmtime: only here, so that `import realm` is quick

        self._lock = threading.RLock()
        self._closed = False
        self._models: list[Model] = []
        self._engine = Process.current().engine(
            engine_options(backend, threads, cpu_features, shim, executor, kv_bytes)
        )
        self.limits = limits or ResourceLimits()
        self._tenant = tenant_number(self._engine, tenant)
        if limits is not None:
            set_tenant_limits(self._engine, self._tenant, limits)
        module = self._engine.sandbox.standard_module()
        self._guest = Guest(self._engine, module, self.limits, self._tenant)
        self._finalizer = weakref.finalize(self, abandon, self._engine, self._guest)
        self._finalizer.atexit = False  # the engine's own shutdown is enough
        if model is not None:
            try:
                self.load_model(model)
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Realm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends what runs (its callers get `closed`) and frees the realm. Doing it again does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._finalizer.detach()
        self._engine.close_guest(self._guest)
        for model in self._models:
            model.close()
        self._models.clear()

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def stopped(self) -> bool:
        """Closed, or ended because its guest misbehaved: nothing runs in it any more."""
        return self._closed or self._guest.problem is not None

    # ---- limits ----

    def set_limits(self, limits: ResourceLimits) -> None:
        """Other limits from now on, also for what runs. Those of the guest's memory and time stay."""
        self._check_open()
        set_tenant_limits(self._engine, self._tenant, limits)
        self._engine.run(lambda: self._guest.set_limits(limits))
        self.limits = limits

    def tenant_stats(self) -> TenantStats:
        """What this realm and others of its tenant use now, and have used."""
        return tenant_stats(self._engine, self._tenant)

    # ---- models ----

    def load_model(
        self,
        model: Model | str | os.PathLike[str],
        context_length: int = 0,
        kv_type: str = "f16",
        progress: Progress | None = None,
    ) -> Model:
        """Loads a GGUF file, or shares it when the process has it. The first model is the realm's default.

        `progress` is called with numbers up to 1.0; an exception in it stops the loading.
        """
        self._check_open()
        path = model.path if isinstance(model, Model) else Path(model)
        if not self.limits.allows_model(path):
            raise limit_error("limit-exceeded", f"this tenant may not use the model {path.name}", "models")
        if not isinstance(model, Model):
            options = ModelOptions("full", context_length, kv_type)
            choice("kv_type", kv_type, KV_TYPES)
            handle = Model.load(self._engine, path, options, progress)
        elif model.shared() and model._engine is not self._engine:
            raise error(
                "invalid-argument", "the model was loaded with other threads, cpu_features or backend"
            )
        else:
            handle = model.share()
        with self._lock:
            self._models.append(handle)
        return handle

    def unload_model(self, model: Model) -> None:
        """Takes the model away from this realm and closes the handle; work that runs on it fails."""
        self._check_open()
        with self._lock:
            own = [handle for handle in self._models if handle._shared is model._shared]
            if model.closed or not own:
                raise error("invalid-handle", "this realm has no such model")
            self._models.remove(own[0])
        shared = own[0].shared()
        self._engine.run(lambda: self._engine.take_model(self._guest, shared))
        own[0].close()

    @property
    def model(self) -> Model:
        """The default model: the one loaded first, or else the demo model that ships with Realm."""
        self._check_open()
        with self._lock:
            return self._models[0] if self._models else self.load_model(demo_model_path())

    # ---- generation ----

    def generate(
        self,
        prompt: str | bytes,
        *,
        max_tokens: int = 256,
        stop: str | Sequence[str] = (),
        mode: str | None = None,
        model: Model | None = None,
        add_special: bool = True,
        parse_special: bool = False,
        sampling: Sampling | None = None,
        logprobs: bool = False,
        priority: int = 0,
        deadline: float | None = None,
        top_logprobs: int = 0,
        **settings: Any,
    ) -> Generation:
        """Continues a prompt as it is. `settings` are the fields of Sampling (temperature, seed, ...).

        `mode` says where the loop over tokens runs: `whole`, in the engine, or `granular` or `layers`, in the
        guest. The tokens are the same. `logprobs` gives the log probability of each, `top_logprobs` also
        those of so many of the likeliest (not in mode whole). Of the tenant's own requests those of higher
        `priority` come first; what is not done `deadline` seconds from now fails.
        """
        spec = self._spec(
            prompt,
            max_tokens,
            stop,
            mode,
            model,
            add_special,
            parse_special,
            make_sampling(sampling, settings),
            logprobs,
            priority,
            deadline,
            top_logprobs,
        )
        return self._wait(spec)

    def stream(
        self,
        prompt: str | bytes,
        *,
        max_tokens: int = 256,
        stop: str | Sequence[str] = (),
        mode: str | None = None,
        model: Model | None = None,
        add_special: bool = True,
        parse_special: bool = False,
        sampling: Sampling | None = None,
        logprobs: bool = False,
        priority: int = 0,
        deadline: float | None = None,
        top_logprobs: int = 0,
        **settings: Any,
    ) -> Stream:
        """Like generate, as an iterator of text pieces. Closing it cancels the request."""
        spec = self._spec(
            prompt,
            max_tokens,
            stop,
            mode,
            model,
            add_special,
            parse_special,
            make_sampling(sampling, settings),
            logprobs,
            priority,
            deadline,
            top_logprobs,
        )
        return Stream(self._engine, self._guest, spec)

    async def agenerate(self, prompt: str | bytes, **settings: Any) -> Generation:
        """generate for asyncio; cancelling the task cancels the request."""
        return await self.astream(prompt, **settings)._whole()

    def astream(
        self,
        prompt: str | bytes,
        *,
        max_tokens: int = 256,
        stop: str | Sequence[str] = (),
        mode: str | None = None,
        model: Model | None = None,
        add_special: bool = True,
        parse_special: bool = False,
        sampling: Sampling | None = None,
        logprobs: bool = False,
        priority: int = 0,
        deadline: float | None = None,
        top_logprobs: int = 0,
        **settings: Any,
    ) -> AsyncStream:
        """stream for asyncio: `async for`, and `async with` to cancel at the end of the block."""
        spec = self._spec(
            prompt,
            max_tokens,
            stop,
            mode,
            model,
            add_special,
            parse_special,
            make_sampling(sampling, settings),
            logprobs,
            priority,
            deadline,
            top_logprobs,
        )
        return AsyncStream(self._engine, self._guest, spec)

    # ---- chat ----

    def chat(self, messages: Sequence[Message], **settings: Any) -> Generation:
        """Answers messages with `role` and `content`, rendered by the model's own chat template."""
        return self._wait(self._chat_spec(messages, settings))

    def chat_stream(self, messages: Sequence[Message], **settings: Any) -> Stream:
        return Stream(self._engine, self._guest, self._chat_spec(messages, settings))

    async def achat(self, messages: Sequence[Message], **settings: Any) -> Generation:
        return await self.achat_stream(messages, **settings)._whole()

    def achat_stream(self, messages: Sequence[Message], **settings: Any) -> AsyncStream:
        return AsyncStream(self._engine, self._guest, lambda: self._chat_spec(messages, settings))

    def render_chat(
        self,
        messages: Sequence[Message],
        *,
        model: Model | None = None,
        tools: Sequence[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        chat_template: str | None = None,
        **variables: Any,
    ) -> str:
        """The prompt a conversation becomes. Control tokens that users wrote are broken up."""
        from ._chat import render_for_model

        return render_for_model(
            model or self.model, messages, tools, add_generation_prompt, chat_template, variables
        )

    # ---- tokens, logits, state ----

    def tokenize(
        self, text: str | bytes, *, add_special: bool = False, parse_special: bool = False
    ) -> list[int]:
        return self.model.tokenize(text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, ids: Sequence[int], *, special: bool = False) -> str:
        return self.model.detokenize(ids, special=special)

    def logits(self, ids: Sequence[int], *, model: Model | None = None) -> numpy.ndarray[Any, Any]:
        """Raw logits after each of the ids: float32 (len(ids), vocabulary), computed with an f32 KV cache."""
        from ._host_session import HostSession

        tokens = token_ids(ids)
        chosen = model or self.model
        if not tokens:
            raise error("invalid-argument", "logits needs at least one token id")
        self._check_open()
        with HostSession(self._engine, chosen.shared(), KV_TYPES["f32"]) as session:
            return session.logits(tokens, chosen.info.vocab_size)

    def score(
        self, ids: Sequence[int], *, top_logprobs: int = 0, model: Model | None = None
    ) -> tuple[DrawnToken, ...]:
        """The log probability of each of the ids given those before it; NaN for the first one.

        With `top_logprobs` also the likeliest at its place. It counts against the tenant's limits.
        """
        return self._scoring(ids, top_logprobs, model).run()

    async def ascore(
        self,
        ids: Sequence[int],
        *,
        top_logprobs: int = 0,
        model: Model | None = None,
        priority: int = 0,
        deadline: float | None = None,
    ) -> tuple[DrawnToken, ...]:
        """score for asyncio; cancelling the task ends the work."""
        return await self._scoring(ids, top_logprobs, model, priority, deadline).arun()

    def stats(self) -> dict[str, Any]:
        """Counters of the engine this realm runs on."""
        self._check_open()
        return runtime_stats(self._engine)

    # ---- inside ----

    def _check_open(self) -> None:
        check_same_process(self._engine.pid)
        if self._closed:
            raise error("closed", "this realm was closed; make a new one")
        if self._guest.problem is not None:
            problem = self._guest.problem
            raise error(problem.code, f"this realm was stopped: {problem.message}; make a new one")

    def _spec(
        self,
        prompt: str | bytes,
        max_tokens: int,
        stop: str | Sequence[str],
        mode: str | None,
        model: Model | None,
        add_special: bool,
        parse_special: bool,
        sampling: Sampling,
        logprobs: bool = False,
        priority: int = 0,
        deadline: float | None = None,
        top_logprobs: int = 0,
    ) -> RequestSpec:
        self._check_open()
        text, stops = encode_text(prompt), pack_stops(stop)
        shared = (model or self.model).shared()
        top_logprobs = check_top_logprobs(top_logprobs, mode, (model or self.model).info.vocab_size)
        mode = mode if mode is not None else ("granular" if top_logprobs else "whole")
        check_text_bytes(len(text) + len(stops), self.limits)
        if len(text) > LONG_PROMPT_BYTES:
            check_prompt_fits(model or self.model, text, add_special, parse_special)
        return RequestSpec(
            model=shared,
            prompt=text,
            add_special=add_special,
            parse_special=parse_special,
            stops=stops,
            max_tokens=check_max_tokens(max_tokens),
            mode=choice("mode", mode, MODES),
            sampling=sampling,
            seed=sampling.actual_seed(),
            logprobs=bool(logprobs or top_logprobs),
            top_logprobs=top_logprobs,
            priority=check_priority(priority),
            deadline=check_deadline(deadline),
        )

    def _scoring(
        self,
        ids: Sequence[int],
        top_logprobs: int,
        model: Model | None,
        priority: int = 0,
        deadline: float | None = None,
    ) -> Scoring:
        from ._score import Scoring

        self._check_open()
        priority, deadline = check_priority(priority), check_deadline(deadline)
        chosen = model or self.model
        return Scoring(self._engine, self._tenant, chosen, self.limits, ids, top_logprobs, priority, deadline)

    def _chat_spec(self, messages: Sequence[Message], settings: dict[str, Any]) -> RequestSpec:
        from ._chat import starts_with_bos

        own = dict(settings)
        model = own.pop("model", None) or self.model
        rendering = {
            name: own.pop(name) for name in ("tools", "chat_template", "template_variables") if name in own
        }
        variables = rendering.pop("template_variables", {})
        prompt = self.render_chat(messages, model=model, **rendering, **variables)
        fixed = {name: own.pop(name) for name in CHAT_SETTINGS if name in own}
        sampling = make_sampling(own.pop("sampling", None), own)
        spec = self._spec(
            prompt,
            fixed.get("max_tokens", 256),
            fixed.get("stop", ()),
            fixed.get("mode"),
            model,
            not starts_with_bos(model, prompt),
            True,
            sampling,
            fixed.get("logprobs", False),
            fixed.get("priority", 0),
            fixed.get("deadline"),
            fixed.get("top_logprobs", 0),
        )
        return spec

    def _wait(self, spec: RequestSpec) -> Generation:
        ended = wait_for_end(self._engine, self._guest, spec)
        return make_generation(ended, "", ended.drawn)


class Stream(Iterator[str]):
    """Text pieces as they come. `result` holds the whole Generation at the end; close() cancels."""

    def __init__(self, engine: Engine, guest: Guest, spec: RequestSpec) -> None:
        self._deliveries: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self._assembly = _Assembly()
        self._engine = engine
        self._request = engine.start(guest, spec, streaming=True, deliver=self._deliveries.put)

    def __next__(self) -> str:
        while not self._assembly.finished:
            try:
                delivery = next_delivery(self._deliveries)
            except BaseException:
                self.close()
                raise
            piece = self._assembly.add(delivery)
            if isinstance(delivery, bytes):
                self._engine.took(self._request, len(delivery))
            if piece:
                return piece
        self._assembly.raise_problem()
        raise StopIteration

    @property
    def drawn(self) -> list[DrawnToken]:
        """With `logprobs`: the tokens so far and their log probabilities. They may be ahead of the text."""
        return self._assembly.drawn

    @property
    def result(self) -> Generation:
        return self._assembly.result()

    def close(self) -> None:
        if not self._assembly.finished:
            self._engine.cancel(self._request)
            self._assembly.abandon()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_request"):
            self.close()


class AsyncStream(AsyncIterator[str]):
    """Text pieces as they come, for asyncio. The request starts at the first step; aclose() cancels."""

    def __init__(self, engine: Engine, guest: Guest, spec: RequestSpec | Callable[[], RequestSpec]) -> None:
        import asyncio

        self._engine = engine
        self._guest = guest
        self._spec = spec  # or what makes it and may take its time, as a chat template does
        self._deliveries: asyncio.Queue[Delivery] = asyncio.Queue()
        self._assembly = _Assembly()
        self._request: Request | None = None

    async def __anext__(self) -> str:
        try:
            if self._request is None:
                self._request = await self._start(True, self._deliveries.put_nowait)
            while not self._assembly.finished:
                delivery = await self._deliveries.get()
                piece = self._assembly.add(delivery)
                if isinstance(delivery, bytes):
                    self._engine.took(self._request, len(delivery))
                if piece:
                    return piece
        except BaseException:  # a cancelled task above all
            await self.aclose()
            raise
        self._assembly.raise_problem()
        raise StopAsyncIteration

    async def _whole(self) -> Generation:
        """Instead of the pieces: the result, of which nothing is delivered before its end."""
        import asyncio

        end: asyncio.Future[Delivery] = asyncio.get_running_loop().create_future()
        request = await self._start(False, lambda ended: None if end.done() else end.set_result(ended))
        try:
            ended = await end
        except BaseException:
            self._engine.cancel(request)
            raise
        assert isinstance(ended, Ended)
        return make_generation(ended, "", ended.drawn)

    async def _start(self, streaming: bool, take: Callable[[Delivery], None]) -> Request:
        import asyncio

        loop, engine = asyncio.get_running_loop(), self._engine
        spec = await asyncio.to_thread(self._spec) if callable(self._spec) else self._spec

        def deliver(delivery: Delivery) -> None:
            engine.post(loop, lambda: take(delivery))

        return engine.start(self._guest, spec, streaming=streaming, deliver=deliver, loop=loop)

    @property
    def drawn(self) -> list[DrawnToken]:
        """With `logprobs`: the tokens so far and their log probabilities. They may be ahead of the text."""
        return self._assembly.drawn

    @property
    def result(self) -> Generation:
        return self._assembly.result()

    async def aclose(self) -> None:
        if self._request is not None and not self._assembly.finished:
            self._engine.cancel(self._request)
            self._assembly.abandon()

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class _Assembly:
    """Puts a request's deliveries together: pieces of whole characters, and at the end the Generation."""

    def __init__(self) -> None:
        self.finished = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # own guests may emit anything
        self._pieces: list[str] = []
        self.drawn: list[DrawnToken] = []
        self._ended: Ended | None = None

    def add(self, delivery: Delivery) -> str:
        if isinstance(delivery, Drawn):
            self.drawn += delivery.tokens
            return ""
        if isinstance(delivery, Ended):
            self.finished = True
            self.drawn += delivery.drawn
            self._ended = delivery
            piece = self._decoder.decode(delivery.text, final=True)
        else:
            piece = self._decoder.decode(delivery)
        if piece:
            self._pieces.append(piece)
        return piece

    def abandon(self) -> None:
        self.finished = True
        self._ended = Ended(problem=error("cancelled", "the request was cancelled"))

    def raise_problem(self) -> None:
        if (
            self._ended is not None
            and self._ended.problem is not None
            and self._ended.problem.code != "cancelled"
        ):
            raise self._ended.problem

    def result(self) -> Generation:
        if self._ended is None:
            raise error("busy", "the request is still running; read the stream to its end first")
        return make_generation(self._ended, "".join(self._pieces), self.drawn)


def make_generation(ended: Ended, streamed: str, drawn: Sequence[DrawnToken]) -> Generation:
    """The result of an ended request, or its error. `streamed` is text that was already delivered."""
    if ended.problem is not None:
        raise ended.problem
    finish = FINISH[ended.finish] if ended.finish < len(FINISH) else FINISH[FINISH_FAILED]
    drawn = drawn[: len(ended.tokens)]
    return Generation(
        text=streamed or ended.text.decode("utf-8", "replace"),
        tokens=ended.tokens,
        prompt_tokens=ended.prompt_tokens,
        finish_reason=finish,
        timings=Timings(ended.first_seconds, ended.total_seconds, *ended.work),
        logprobs=tuple(token.logprob for token in drawn) if drawn else None,
        top_logprobs=tuple(token.top for token in drawn) if drawn and drawn[0].top else None,
        end_token=ended.end_token if finish == "end" else None,
    )


def runtime_stats(engine: Engine) -> dict[str, Any]:
    """Counters of an engine."""
    native = ffi.new("realm_runtime_stats *")
    library().realm_runtime_get_stats(engine.runtime, native)
    names = ("steps", "rows", "step_ns", "prefix_hits", "kv_bytes_used", "kv_bytes_limit")
    counts = {name: int(getattr(native, name)) for name in names}
    kernels = ffi.string(library().realm_runtime_kernels(engine.runtime)).decode()
    threads = int(library().realm_runtime_threads(engine.runtime))
    return {"kernels": kernels, "threads": threads, **counts}


def engine_options(
    backend: str,
    threads: int | None,
    cpu_features: Sequence[str] | None,
    shim: str,
    executor: int,
    kv_bytes: int = 0,
) -> EngineOptions:
    """Realms with the same options share one engine. kv_bytes: its KV memory; 0: half of the machine's."""
    if backend not in BACKENDS:
        raise error(
            "backend-unavailable", f"there is no backend {backend!r} here; available: {', '.join(BACKENDS)}"
        )
    if shim not in ("native", "public"):
        raise error("invalid-argument", f"shim must be native or public, not {shim!r}")
    if threads is not None and (not isinstance(threads, int) or not 1 <= threads <= MAX_THREADS):
        raise error(
            "invalid-argument", f"threads must be a whole number from 1 to {MAX_THREADS}, not {threads!r}"
        )
    features = 0
    for name in cpu_features or ():
        features |= choice("cpu_features", name, CPU_FEATURES)
    if not isinstance(kv_bytes, int) or not 0 <= kv_bytes < 1 << 63:
        raise error("invalid-argument", f"kv_bytes must be a number of bytes, or 0, not {kv_bytes!r}")
    return EngineOptions(
        threads=threads or 0, features=features, executor=executor, kv_bytes=kv_bytes, shim=shim
    )


def make_sampling(sampling: Sampling | None, settings: dict[str, Any]) -> Sampling:
    if settings.get("logit_bias", ...) is None:
        settings = {name: value for name, value in settings.items() if name != "logit_bias"}
    try:
        return replace(sampling or Sampling(), **settings)
    except TypeError:
        known = ", ".join((*CHAT_SETTINGS, "model", *Sampling.__dataclass_fields__))
        unknown = ", ".join(sorted(set(settings) - set(Sampling.__dataclass_fields__)))
        raise error("invalid-argument", f"unknown setting {unknown}; known are: {known}") from None


def pack_stops(stop: str | Sequence[str]) -> bytes:
    """Each stop string after its length, as realm.wit wants it."""
    packed = []
    for text in [stop] if isinstance(stop, str) else stop:
        data = encode_text(text)
        if not data:
            raise error("invalid-argument", "a stop string must not be empty")
        packed += [struct.pack("<I", len(data)), data]
    return b"".join(packed)


def check_prompt_fits(model: Model, text: bytes, add_special: bool, parse_special: bool) -> None:
    """In the caller's thread: a long prompt that cannot fit takes none of the thread's of all guests."""
    count = model.count_tokens(text, add_special=add_special, parse_special=parse_special)
    if count > model.info.context_length:
        raise error(
            "context-full", f"the prompt has {count} tokens, the model's context {model.info.context_length}"
        )


def check_text_bytes(size: int, limits: ResourceLimits) -> None:
    """The guest holds the text, its token ids (at worst four bytes for each of the text's) and copies."""
    most = limits.guest_memory_bytes // 8
    if size > most:
        raise limit_error(
            "limit-exceeded",
            f"a prompt and stop strings of {size} bytes are more than the {most} that a realm with "
            f"guest_memory_bytes={limits.guest_memory_bytes} takes",
            "guest_memory_bytes",
            limits.guest_memory_bytes,
        )


def abandon(engine: Engine, guest: Guest) -> None:
    """A realm that was dropped without close()."""
    if engine.pid == os.getpid() and guest.handle:
        engine.submit(lambda: engine._close_guest(guest, error("closed", "the realm was dropped")))
