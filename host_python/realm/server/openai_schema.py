"""The bodies of OpenAI's API, as far as they can be served here.

Unknown fields are ignored, as OpenAI's clients expect; fields that would change the answer in a way this
server cannot give are refused by name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .._options import Sampling
from .errors import ApiError

MOST_CHOICES = 16
MOST_STOPS = 16
MOST_PROMPTS = 64
MOST_TOKENS = 1 << 20
BAN = -100.0  # OpenAI's weakest bias bans a token

TokenIds = Annotated[list[int], Field(min_length=1, max_length=MOST_TOKENS)]
Stop = Annotated[str, Field(min_length=1, max_length=1024)]


class StreamOptions(BaseModel):
    include_usage: bool = False


class CompletionSettings(BaseModel):
    """What chat and plain completions have in common."""

    model_config = ConfigDict(allow_inf_nan=False, extra="ignore")

    model: str | None = Field(None, max_length=256)
    max_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = None
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 64)
    user: str | None = None
    # beyond OpenAI's
    top_k: int | None = Field(None, ge=0, le=1 << 20)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    ignore_eos: bool = False
    priority: int = Field(0, ge=0, lt=1 << 32, description="Higher first among the tenant's own requests.")
    deadline: float | None = Field(None, gt=0, le=1e6, description="Seconds; what is not done then gets 504.")

    def sampling(self, choice: int) -> Sampling:
        """OpenAI's defaults: all of the distribution. Each choice has a seed of its own."""
        return Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=self.top_k or 0,
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            penalty_window=MOST_TOKENS if self.frequency_penalty or self.presence_penalty else 0,
            seed=None if self.seed is None else (self.seed + choice) % (1 << 64),
            logit_bias=self.biases(),
            ignore_end=self.ignore_eos,
        )

    def biases(self) -> dict[int, float]:
        found = {}
        for token, value in (self.logit_bias or {}).items():
            if not (token.isascii() and token.isdigit() and len(token) <= 9) or not -100 <= value <= 100:
                raise ApiError(
                    400, "logit_bias maps token ids to numbers from -100 to 100", param="logit_bias"
                )
            found[int(token)] = float("-inf") if value <= BAN else value
        return found

    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class TextPart(BaseModel):
    type: str = Field(max_length=64)
    text: str | None = None


class ChatMessage(BaseModel):
    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[TextPart] | None = None
    name: str | None = Field(None, max_length=256)

    def plain(self) -> dict[str, Any]:
        """As chat templates read it: content is one text."""
        message: dict[str, Any] = {"role": self.role, "content": self.text()}
        return message | ({"name": self.name} if self.name else {})

    def text(self) -> str:
        if not isinstance(self.content, list):
            return self.content or ""
        wrong = next((part.type for part in self.content if part.type != "text" or part.text is None), None)
        if wrong is not None:
            raise ApiError(
                400, f"content of type {wrong!r:.80} is not supported, only text", param="messages"
            )
        return "".join(part.text or "" for part in self.content)


class ChatRequest(CompletionSettings):
    messages: list[ChatMessage] = Field(min_length=1, max_length=4096)
    max_completion_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    tool_choice: Any = None
    response_format: dict[str, Any] | None = None
    modalities: list[str] | None = None

    def check(self) -> None:
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
        if (self.tools and self.tool_choice != "none") or self.functions:
            raise unsupported("tools" if self.tools else "functions", "models here do not call tools")
        if (self.response_format or {}).get("type", "text") != "text":
            raise unsupported("response_format", "answers are text")
        if self.modalities and self.modalities != ["text"]:
            raise unsupported("modalities", "answers are text")

    @property
    def likeliest(self) -> int | None:
        """How many of the likeliest tokens are told at each place; None: no log probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def most_tokens(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class TextRequest(CompletionSettings):
    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MOST_PROMPTS)]
    )
    max_tokens: int | None = Field(None, ge=0, le=MOST_TOKENS, description="0 with echo: only the prompt.")
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None

    def check(self) -> None:
        if self.best_of not in (None, self.n or 1):
            raise unsupported("best_of", "ask for n choices")
        if self.suffix:
            raise unsupported("suffix", "text is only continued")
        if self.max_tokens == 0 and not self.echo:
            raise ApiError(400, "max_tokens: 0 is for echo, which returns the prompt", param="max_tokens")
        if len(self.prompts()) * (self.n or 1) > MOST_PROMPTS:
            raise ApiError(400, f"prompts times n is more than {MOST_PROMPTS}", param="n")

    @property
    def likeliest(self) -> int | None:
        return self.logprobs

    @property
    def scores_prompts(self) -> bool:
        return bool(self.echo) and self.logprobs is not None

    def prompts(self) -> list[str | list[int]]:
        """Texts and lists of token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        ids = [each for each in self.prompt if isinstance(each, int)]
        return [ids] if ids else [each for each in self.prompt if not isinstance(each, int)]


def unsupported(param: str, why: str) -> ApiError:
    return ApiError(400, f"{param} is not supported: {why}", code="unsupported_parameter", param=param)
