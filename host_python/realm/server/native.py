"""Realm's own endpoints: load and unload models, generate, stream, statistics."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from .._api import AsyncStream, Generation, Realm
from .._options import MOST_TOP_LOGPROBS, Sampling
from .choices import Choices, Event, Finished, Piece, Start, due_in
from .documents import EVENTS, DeletedReply, Events, GenerateReply, ModelReply, StatsReply, answers
from .errors import ApiError
from .keys import Tenant
from .openai import describe, mode_for
from .openai_schema import MOST_STOPS, MOST_TOKENS, ChatMessage, Stop
from .prompts import LEAST_LOGPROB
from .replies import collect, event, json_reply, stream_reply, while_connected
from .services import administrator, caller, services_of

router = APIRouter(tags=["Realm"])
Caller = Annotated[Tenant, Depends(caller)]
Administrator = Annotated[Tenant, Depends(administrator)]


class LoadRequest(BaseModel):
    path: str = Field(min_length=1, max_length=1024, description="A file below --models-dir.")
    id: str | None = Field(None, min_length=1, max_length=128, description="Without it, the file's name.")
    context_length: int = Field(0, ge=0, le=1 << 20)
    kv_type: Literal["f16", "f32"] = "f16"


class GenerateRequest(BaseModel):
    """A text to continue (`prompt`) or a conversation to answer (`messages`), and Realm's own settings."""

    model_config = ConfigDict(allow_inf_nan=False, extra="forbid")

    model: str | None = Field(None, max_length=256)
    prompt: str | None = None
    messages: list[ChatMessage] | None = Field(None, min_length=1, max_length=4096)
    max_tokens: int = Field(256, ge=1, le=MOST_TOKENS)
    stop: list[Stop] = Field([], max_length=MOST_STOPS)
    mode: Literal["granular", "whole", "layers"] | None = Field(
        None, description="Where the loop of tokens runs; without it where that costs least."
    )
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=MOST_TOP_LOGPROBS, description="Not in mode whole.")
    temperature: float = Field(0.8, ge=0, le=1e6)
    top_k: int = Field(40, ge=0, le=1 << 20)
    top_p: float = Field(0.95, gt=0, le=1)
    min_p: float = Field(0.05, ge=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0, le=100)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    seed: int | None = Field(None, ge=0, lt=1 << 64)
    priority: int = Field(0, ge=0, lt=1 << 32, description="Higher first among the tenant's own requests.")
    deadline: float | None = Field(None, gt=0, le=1e6, description="Seconds; what is not done then gets 504.")

    def sampling(self) -> Sampling:
        names = (
            "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "frequency_penalty",
            "presence_penalty", "seed",
        )  # fmt: skip
        return Sampling(**{name: getattr(self, name) for name in names})


@router.post("/v1/models/load", status_code=201, responses=answers(ModelReply, 201))
async def load_model(request: Request, body: LoadRequest, tenant: Administrator) -> Response:
    services = services_of(request)
    path = services.models.file(body.path)
    model = await services.models.add(body.id or path.stem, path, body.context_length, body.kv_type)
    services.metrics.models_loaded.set(len(services.models))
    return json_reply(describe(model), 201)


@router.delete("/v1/models/{model}", responses=answers(DeletedReply))
async def delete_model(request: Request, model: str, tenant: Administrator) -> Response:
    services = services_of(request)
    taken = services.models.take_out(model)
    await services.tenants.take_model(taken)
    taken.handle.close()
    services.metrics.models_loaded.set(len(services.models))
    return json_reply({"id": model, "object": "model", "deleted": True})


@router.post("/v1/generate", responses=answers(GenerateReply))
async def generate(request: Request, body: GenerateRequest, tenant: Caller) -> Response:
    services = services_of(request)
    choices = Choices(services, [start_of(request, body, tenant)], request.scope["realm.span"])
    events = await while_connected(request, services.drain, collect(choices))
    [result] = [event.result for event in events if isinstance(event, Finished)]
    return json_reply({"text": result.text, **record(result)})


@router.post("/v1/stream", response_class=Events, responses={200: {"content": EVENTS}})
async def stream(request: Request, body: GenerateRequest, tenant: Caller) -> Response:
    """Events `{"text": ...}` as text comes, and one last `{"done": true, ...}`."""
    services = services_of(request)
    choices = Choices(services, [start_of(request, body, tenant)], request.scope["realm.span"])
    return await stream_reply(request, services.drain, choices, event_of, list)


def start_of(request: Request, body: GenerateRequest, tenant: Tenant) -> Start:
    if (body.prompt is None) == (body.messages is None):
        raise ApiError(400, "give either prompt or messages", param="prompt")
    model = services_of(request).find_model(body.model, tenant)
    settings: dict[str, Any] = {
        "model": model.handle,
        "max_tokens": body.max_tokens,
        "stop": body.stop,
        "mode": body.mode or mode_for(body.top_logprobs),
        "sampling": body.sampling(),
        "logprobs": body.logprobs,
        "top_logprobs": body.top_logprobs,
        "priority": body.priority,
    }

    def begin(realm: Realm, seconds: float | None) -> AsyncStream:
        if body.prompt is not None:
            return realm.astream(body.prompt, deadline=seconds, **settings)
        messages = [message.plain() for message in body.messages or []]
        return realm.achat_stream(messages, deadline=seconds, **settings)

    return Start(tenant, model, begin, body.priority, due_in(body.deadline))


def event_of(found: Event) -> list[bytes]:
    if isinstance(found, Finished):
        return [event({"done": True, **record(found.result)})]
    return [event({"text": found.text})] if isinstance(found, Piece) and found.text else []


def record(result: Generation) -> dict[str, Any]:
    made: dict[str, Any] = {
        "tokens": list(result.tokens),
        "finish_reason": result.finish_reason,
        "usage": {
            "prompt_tokens": result.prompt_tokens,
            "completion_tokens": len(result.tokens),
            "total_tokens": result.usage.total_tokens,
        },
        "timings": {name: round(value, 6) for name, value in vars(result.timings).items()},
    }
    if result.logprobs is not None:
        made["logprobs"] = list(result.logprobs)
    if result.top_logprobs is not None:
        made["top_logprobs"] = [[likely(*pair) for pair in top] for top in result.top_logprobs]
    return made


def likely(token: int, logprob: float) -> dict[str, Any]:
    return {"id": token, "logprob": max(logprob, LEAST_LOGPROB)}


@router.get("/v1/stats", responses=answers(StatsReply))
async def stats(request: Request, tenant: Caller) -> Response:
    """What the caller's tenant uses; an administrator sees all tenants, the engine and the server too."""
    services = services_of(request)
    manager = services.tenants.manager
    names = manager.ids() if tenant.admin else [tenant.name] if tenant.name in manager else []
    made: dict[str, Any] = {
        "models": [name for name in services.models.names() if tenant.may_use(name)],
        "tenants": {name: tenant_record(services.tenants.stats(name)) for name in names},
    }
    if tenant.admin:  # they tell what the others do
        made["engine"] = dict(services.engine_stats())
        made["server"] = {"running": services.admission.running, "waiting": services.admission.waiting}
    return json_reply(made)


def tenant_record(found: Any) -> dict[str, Any]:
    return dict(vars(found)) if found is not None else {}
