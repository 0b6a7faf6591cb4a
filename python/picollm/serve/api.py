"""The requests that the server understands, in OpenAI's shapes. Every number and every list has its bounds."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MOST_MESSAGES = 128
MOST_PARTS = 64
MOST_TEXT = 32 * 1024
MOST_TOKENS = 2048
MOST_STOPS, LONGEST_STOP = 4, 64
MOST_LOGPROBS = 20
LARGEST_SEED = 2**63 - 1


def whole(value: object) -> object:
    """JSON has one kind of number: 8.0 is a whole one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(whole)  # stands after the bounds, so that the description has them
Text = Annotated[str, Field(max_length=MOST_TEXT)]
Stop = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]


class Sampled(BaseModel):
    """What both kinds of completion say of how tokens are drawn. What OpenAI has and we have not is passed over."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model: Annotated[str, Field(max_length=256)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=0, le=65_536), WHOLE] | None = None
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS), WHOLE] | None = None
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED), WHOLE] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    n: Annotated[int, Field(ge=1, le=1), WHOLE] | None = None
    stream: bool | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class MessagePart(BaseModel):
    """A stretch of a message: words, or in the assistant's a call of the calculator and what it gave."""

    model_config = ConfigDict(extra="ignore", strict=True)

    type: Literal["text", "python", "output"]
    text: Text


class ChatMessage(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    role: Literal["system", "user", "assistant"]
    content: (
        Annotated[Text, Field(min_length=1)] | Annotated[list[MessagePart], Field(min_length=1, max_length=MOST_PARTS)]
    )


class ChatRequest(Sampled):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS), WHOLE] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS), WHOLE] | None = None

    @property
    def most(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def alternatives(self) -> int | None:
        """Likeliest tokens to report at each place; None where no log-probability was asked for."""
        return (self.top_logprobs or 0) if self.logprobs else None


class TextRequest(Sampled):
    """POST /v1/completions."""

    prompt: Text
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS), WHOLE] | None = None
    echo: bool | None = None

    @property
    def most(self) -> int | None:
        return self.max_tokens

    @property
    def alternatives(self) -> int | None:
        return self.logprobs


class TextIn(BaseModel):
    """POST /tokenize."""

    model_config = ConfigDict(extra="ignore", strict=True)
    text: Text


class IdsIn(BaseModel):
    """POST /detokenize."""

    model_config = ConfigDict(extra="ignore", strict=True)
    ids: Annotated[list[Annotated[int, Field(ge=0, lt=2**32), WHOLE]], Field(max_length=MOST_TEXT)]


class PlanIn(BaseModel):
    """POST /api/plan: options of `picollm plan` as words, such as ["--depth", "4"]."""

    model_config = ConfigDict(extra="ignore", strict=True)
    words: Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=64)]


Json = dict[str, Any]
