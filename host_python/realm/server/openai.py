"""OpenAI's endpoints: /v1/models, /v1/chat/completions, /v1/completions. openai_output.py makes what they
return.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from itertools import zip_longest
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from .._api import AsyncStream, Realm
from .choices import Begin, Choices, Score, Scored, Start, due_in
from .documents import ChatReply, ModelReply, ModelsReply, TextReply, answers
from .keys import Tenant
from .models import LoadedModel
from .openai_output import ChatOutput, Output, TextOutput
from .openai_schema import ChatRequest, CompletionSettings, TextRequest
from .prompts import Prompt, check_scored, read_prompts, scored
from .replies import collect, json_reply, stream_reply, while_connected
from .services import Services, caller, services_of

router = APIRouter(tags=["OpenAI"])
Caller = Annotated[Tenant, Depends(caller)]


@router.get("/v1/models", responses=answers(ModelsReply))
async def list_models(request: Request, tenant: Caller) -> Response:
    models = services_of(request).models
    found = [models.find(name) for name in models.names() if tenant.may_use(name)]
    return json_reply({"object": "list", "data": [describe(model) for model in found if model]})


@router.get("/v1/models/{model}", responses=answers(ModelReply))
async def get_model(request: Request, model: str, tenant: Caller) -> Response:
    return json_reply(describe(services_of(request).find_model(model, tenant)))


def describe(model: LoadedModel) -> dict[str, Any]:
    info = model.handle.info
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "realm",
        "context_length": info.context_length,
        "parameters": info.parameter_count,
    }


@router.post("/v1/chat/completions", responses=answers(ChatReply, streams=True))
async def chat_completions(request: Request, body: ChatRequest, tenant: Caller) -> Response:
    body.check()
    services = services_of(request)
    model = services.find_model(body.model, tenant)
    messages = [message.plain() for message in body.messages]

    def begin(choice: int, realm: Realm, seconds: float | None) -> AsyncStream:
        return realm.achat_stream(
            messages,
            model=model.handle,
            max_tokens=body.most_tokens or model.handle.info.context_length,
            stop=body.stops(),
            mode=mode_for(body.likeliest),
            sampling=body.sampling(choice),
            logprobs=body.likeliest is not None,
            top_logprobs=body.likeliest or 0,
            priority=body.priority,
            deadline=seconds,
        )

    body.sampling(0)  # what is wrong with the settings is said before anything starts
    begins = [partial(begin, choice) for choice in range(body.n or 1)]
    return await reply(request, services, body, tenant, begins, ChatOutput(model, body.likeliest))


@router.post("/v1/completions", responses=answers(TextReply, streams=True))
async def completions(request: Request, body: TextRequest, tenant: Caller) -> Response:
    body.check()
    services = services_of(request)
    model = services.find_model(body.model, tenant)
    body.sampling(0)
    prompts = await asyncio.to_thread(prompts_of, body, model)
    chosen = [prompt for prompt in prompts for _ in range(body.n or 1)]
    begins = [partial(begin_text, body, model, prompt, choice) for choice, prompt in enumerate(chosen)]
    scores = [partial(score_prompt, body, model, prompt) for prompt in chosen] if body.scores_prompts else ()
    texts = [prompt.text for prompt in chosen]
    output = TextOutput(model, body.likeliest, texts, body.n or 1, bool(body.echo))
    return await reply(
        request, services, body, tenant, () if body.max_tokens == 0 else begins, output, scores
    )


def prompts_of(body: TextRequest, model: LoadedModel) -> list[Prompt]:
    prompts = read_prompts(model, body.prompts())
    if body.scores_prompts:
        check_scored(model, prompts)
    return prompts


def begin_text(
    body: TextRequest, model: LoadedModel, prompt: Prompt, choice: int, realm: Realm, seconds: float | None
) -> AsyncStream:
    return realm.astream(
        prompt.data,
        model=model.handle,
        max_tokens=body.max_tokens or 16,  # OpenAI's default
        stop=body.stops(),
        mode=mode_for(body.likeliest),
        add_special=not prompt.from_ids,
        parse_special=prompt.from_ids,
        sampling=body.sampling(choice % (body.n or 1)),
        logprobs=body.likeliest is not None,
        top_logprobs=body.likeliest or 0,
        priority=body.priority,
        deadline=seconds,
    )


async def score_prompt(
    body: TextRequest, model: LoadedModel, prompt: Prompt, realm: Realm, seconds: float | None
) -> Scored:
    ids = await asyncio.to_thread(prompt.tokens, model)
    scores = await realm.ascore(
        ids, model=model.handle, top_logprobs=body.likeliest or 0, priority=body.priority, deadline=seconds
    )
    return await asyncio.to_thread(scored, model, prompt, scores)


def mode_for(likeliest: int | None) -> str:
    """The tokens are the same: the engine's own loop waits for less, the guest's has logits to look at."""
    return "granular" if likeliest else "whole"


async def reply(
    request: Request,
    services: Services,
    body: CompletionSettings,
    tenant: Tenant,
    begins: Sequence[Begin],
    output: Output,
    scores: Sequence[Score] = (),
) -> Response:
    due = due_in(body.deadline)
    starts = [
        Start(tenant, output.model, begin, body.priority, due, score)
        for begin, score in zip_longest(begins, scores)
    ]
    choices = Choices(services, starts, request.scope["realm.span"])
    if body.stream:
        closing = partial(output.closing_chunks, body.wants_usage)
        return await stream_reply(request, services.drain, choices, output.chunks, closing)
    events = await while_connected(request, services.drain, collect(choices))
    return json_reply(output.whole(events))
