"""Tokens → tokens: prefill once, then one token at a time through the cache of keys and values.

The context is the model's `seq_len`: a prompt must leave room for one token, and an answer ends where the context
does. Nothing slides and nothing is dropped here; whoever keeps a conversation decides what to forget.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import torch
from torch import Tensor

from picollm.conversation import Encoder
from picollm.errors import UsageError
from picollm.infer.sample import Sampling, likeliest, log_probability, sample
from picollm.model.cache import Cache
from picollm.model.gpt import GPT


class Finish(StrEnum):
    """Why no further token comes."""

    STOP = "stop"  # the model wrote a stop token
    LENGTH = "length"  # `max_tokens` were written
    CONTEXT = "context"  # the context is full


@dataclass(frozen=True)
class Request:
    """What to continue and how. `max_tokens` None: as far as the context goes; stop tokens are not part of the text."""

    prompt: tuple[int, ...]
    how: Sampling
    max_tokens: int | None = None
    stops: frozenset[int] = frozenset()
    alternatives: int = 0  # the likeliest tokens to report at each place


@dataclass(frozen=True)
class Token:
    """A token and what the model itself gave it, in nats, before any rule of sampling."""

    id: int
    log_probability: float
    alternatives: tuple[tuple[int, float], ...] = ()


class Engine:
    """A model that answers requests. Nothing is kept between them."""

    def __init__(self, model: GPT) -> None:
        self.model = model.eval()
        self.config = model.config
        self.device = model.embed.weight.device

    @property
    def context(self) -> int:
        """Most tokens of prompt and answer together."""
        return self.config.seq_len

    def start(self, request: Request) -> "Generation":
        """One answer, token by token.

        Raises UsageError for a prompt that is empty, does not fit or holds ids that the model does not have.
        """
        return Generation(Rows(self, [request]))

    def complete(self, requests: Sequence[Request]) -> list["Answer"]:
        """All answers, decoded together. A row's noise does not depend on its neighbours."""
        rows = Rows(self, requests)
        while rows.going:
            rows.step()
        return rows.answers


class Answer:
    """The tokens of one request so far; once no more come, `finish` says why."""

    def __init__(self, request: Request, engine: Engine) -> None:
        check(request, engine)
        room = engine.context - len(request.prompt)
        wanted = room if request.max_tokens is None else request.max_tokens
        self.request = request
        self.most = min(room, wanted)
        self.at_most = Finish.LENGTH if wanted <= room else Finish.CONTEXT
        self.tokens: list[Token] = []
        self.finish: Finish | None = None

    def take(self, logits: Tensor) -> None:
        """Draw the next token from its logits (V,), on the host."""
        request = self.request
        chosen = sample(logits, request.how, len(request.prompt) + len(self.tokens))
        if chosen in request.stops:
            self.finish = Finish.STOP
            return
        others = tuple(likeliest(logits, request.alternatives)) if request.alternatives else ()
        self.tokens.append(Token(chosen, log_probability(logits, chosen), others))
        if len(self.tokens) == self.most:
            self.finish = self.at_most


class Rows:
    """Requests that are decoded together: prompts of any lengths, padded on the right and cut back in the cache."""

    def __init__(self, engine: Engine, requests: Sequence[Request]) -> None:
        self.engine = engine
        self.answers = [Answer(request, engine) for request in requests]
        capacity = max(len(answer.request.prompt) + answer.most for answer in self.answers)
        longest = max(len(answer.request.prompt) for answer in self.answers)
        self.cache = Cache(
            engine.config, len(requests), max(capacity, longest), engine.model.compute_dtype, engine.device
        )

    @property
    def going(self) -> bool:
        return any(answer.finish is None for answer in self.answers)

    @torch.inference_mode()
    def step(self) -> None:
        """One more token for every row that has not ended; a row that has ended holds nothing any more."""
        fed = [self.unread(answer) for answer in self.answers]
        width = max(map(len, fed))
        ids = torch.tensor([[*row, *(0,) * (width - len(row))] for row in fed], device=self.engine.device)
        before = self.cache.lengths
        hidden = self.engine.model.hidden(ids, cache=self.cache)
        last = torch.tensor([max(0, len(row) - 1) for row in fed], device=self.engine.device)
        logits = self.engine.model.head(hidden[torch.arange(len(fed), device=self.engine.device), last]).float().cpu()
        for row, answer in enumerate(self.answers):
            if answer.finish is None:
                answer.take(logits[row])
        ended = [answer.finish is not None for answer in self.answers]
        self.cache.truncate([0 if ended[row] else before[row] + len(fed[row]) for row in range(len(fed))])

    def unread(self, answer: Answer) -> tuple[int, ...]:
        """What the model has not yet read of a row."""
        if answer.finish is not None:
            return ()
        return (answer.tokens[-1].id,) if answer.tokens else answer.request.prompt


class Generation(Iterator[Token]):
    """The tokens of one answer as they come; afterwards `finish` says why it ended. Dropping it ends the work."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        [self.answer] = rows.answers
        self.handed_out = 0

    @property
    def finish(self) -> Finish | None:
        return self.answer.finish

    def __next__(self) -> Token:
        if self.finish is None and self.handed_out == len(self.answer.tokens):
            self.rows.step()
        if self.handed_out == len(self.answer.tokens):
            raise StopIteration
        self.handed_out += 1
        return self.answer.tokens[self.handed_out - 1]


def check(request: Request, engine: Engine) -> None:
    length, context, vocab_size = len(request.prompt), engine.context, engine.config.vocab_size
    if not request.prompt:
        raise UsageError("an empty prompt", hint="a document begins with <|bos|>")
    if length >= context:
        raise UsageError(
            f"the prompt has {length:,} tokens; the context is {context:,}, one of them for the answer",
            hint="shorten it, or train with a larger --max-seq-len",
        )
    if request.max_tokens is not None and request.max_tokens < 1:
        raise UsageError(f"max-tokens {request.max_tokens} is not a positive whole number")
    if not all(0 <= token < vocab_size for token in request.prompt):
        raise UsageError(
            f"the prompt holds ids outside 0 … {vocab_size - 1}", hint="encode it with the model's tokenizer"
        )


class TextStream(Protocol):
    """Ids in, text out as soon as its characters are whole."""

    def push(self, token: int) -> str: ...

    def finish(self) -> str: ...


class Speech(Encoder, Protocol):
    """A tokenizer that can also speak as it goes."""

    def stream(self) -> TextStream: ...


def text_of(tokens: Iterator[Token], stream: TextStream) -> Iterator[str]:
    """The text of `tokens` in pieces, none of them empty, none of them half a character."""
    for token in tokens:
        if piece := stream.push(token.id):
            yield piece
    if rest := stream.finish():
        yield rest
