"""What answers look like, for the OpenAPI document alone: replies are not built from these classes.

The schema tests hold every answer against them; nothing may be in an answer that is not here.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

PLAIN = {"text/plain": {"schema": {"type": "string"}}}


def closed_object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(properties),
        "properties": properties,
        "additionalProperties": False,
    }


TEXT, OPTIONAL_TEXT = {"type": "string"}, {"type": ["string", "null"]}
EVENTS = {"text/event-stream": {"schema": closed_object(event=TEXT, data=TEXT)}}  # of each event
# As data, because FastAPI would give a model the endpoint's own media type: errors are JSON everywhere.
ERROR = {
    "description": "An error of OpenAI's shape",
    "content": {
        "application/json": {
            "schema": closed_object(
                error=closed_object(message=TEXT, type=TEXT, param=OPTIONAL_TEXT, code=OPTIONAL_TEXT)
            )
        }
    },
}


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class UsageReply(Closed):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


# ---- OpenAI's ----


class ModelReply(Closed):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    context_length: int
    parameters: int


class ModelsReply(Closed):
    object: Literal["list"]
    data: list[ModelReply]


class LikelyToken(Closed):
    token: str
    logprob: float
    bytes: list[int]


class ChatToken(LikelyToken):
    top_logprobs: list[LikelyToken]


class ChatLogprobs(Closed):
    content: list[ChatToken]
    refusal: None


class AssistantMessage(Closed):
    role: Literal["assistant"]
    content: str
    refusal: None


FinishReason = Literal["stop", "length"]


class ChatChoice(Closed):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatReply(Closed):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageReply


class TextLogprobs(Closed):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class TextChoice(Closed):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason


class TextReply(Closed):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: UsageReply


# ---- Realm's ----


class TimingsReply(Closed):
    first_token_seconds: float
    total_seconds: float
    queued_seconds: float
    prefill_seconds: float
    decode_seconds: float
    step_seconds: float
    steps: int
    rows: int


class LikelyId(Closed):
    id: int
    logprob: float


class GenerateReply(Closed):
    text: str
    tokens: list[int]
    finish_reason: Literal["end", "stop", "length"]
    usage: UsageReply
    timings: TimingsReply
    logprobs: list[float] | None = None
    top_logprobs: list[list[LikelyId]] | None = None


class DeletedReply(Closed):
    id: str
    object: Literal["model"]
    deleted: Literal[True]


class ServerLoad(Closed):
    running: int
    waiting: int


class StatsReply(Closed):
    """The engine and the server are shown to administrators alone."""

    models: list[str]
    tenants: dict[str, dict[str, Any]]
    engine: dict[str, Any] | None = None
    server: ServerLoad | None = None


class Events(Response):
    """`response_class=` of an endpoint that streams."""

    media_type = "text/event-stream"


def answers(
    model: type[BaseModel], status: int = 200, streams: bool = False
) -> dict[int | str, dict[str, Any]]:
    """`responses=` of an endpoint."""
    return {status: {"model": model, **({"content": EVENTS} if streams else {})}}
