"""Tokens → tokens: prompts are read once, then every step gives each live request one token through the cache.

The context is the model's `seq_len`: a prompt must leave room for one token, and an answer ends where the context
does. Nothing is dropped here; whoever keeps a conversation decides what to forget.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import torch
from torch import Tensor

from picollm.conversation import Encoder
from picollm.errors import PicoError, UsageError
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
    """What to continue and how. `max_tokens` None: as far as the context goes; stop tokens are not part of the text.

    interject: the answer's ids so far → ids that are put after them without asking the model, such as what a call of
    the calculator gave.
    """

    prompt: tuple[int, ...]
    how: Sampling
    max_tokens: int | None = None
    stops: frozenset[int] = frozenset()
    alternatives: int = 0  # the likeliest tokens to report at each place
    interject: Callable[[Sequence[int]], Sequence[int]] | None = None


@dataclass(frozen=True)
class Token:
    """A token and what the model itself gave it, in nats, before any rule of sampling.

    said: whether the model chose it; a token that was interjected has no log-probability (0).
    """

    id: int
    log_probability: float = 0.0
    alternatives: tuple[tuple[int, float], ...] = ()
    said: bool = True


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
        return Generation(self, Answer(request, self))

    def complete(self, requests: Sequence[Request]) -> list["Answer"]:
        """All answers, decoded together. A row's noise does not depend on its neighbours."""
        answers = [Answer(request, self) for request in requests]
        batch = Batch(self, len(answers), max((answer.longest for answer in answers), default=1))
        batch.join(answers)
        while batch.live:
            batch.step()
        for answer in answers:
            answer.check()
        return answers


class Answer:
    """The tokens of one request so far. Once no more come, `finish` says why, or `error` what went wrong."""

    def __init__(self, request: Request, engine: Engine) -> None:
        check(request, engine)
        room = engine.context - len(request.prompt)
        wanted = room if request.max_tokens is None else request.max_tokens
        self.request = request
        self.most = min(room, wanted)
        self.at_most = Finish.LENGTH if wanted <= room else Finish.CONTEXT
        self.tokens: list[Token] = []
        self.read = 0  # tokens of prompt and answer that the model has seen
        self.finish: Finish | None = None
        self.error: PicoError | None = None

    @property
    def ended(self) -> bool:
        return self.finish is not None or self.error is not None

    @property
    def longest(self) -> int:
        """Tokens of prompt and answer, at most."""
        return len(self.request.prompt) + self.most

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]

    def unread(self) -> Sequence[int]:
        """What the model has not seen yet: the prompt, then the last token and what was interjected after it."""
        prompt = self.request.prompt
        if self.read < len(prompt):
            return (*prompt[self.read :], *self.ids)
        return [token.id for token in self.tokens[self.read - len(prompt) :]]

    def take(self, logits: Tensor) -> None:
        """Draw the next token from its logits (V,), on the host. A failure is this answer's own: see `error`."""
        request = self.request
        try:
            chosen = sample(logits, request.how, len(request.prompt) + len(self.tokens))
        except PicoError as error:
            self.error = error
            return
        if chosen in request.stops:
            self.finish = Finish.STOP
            return
        others = tuple(likeliest(logits, request.alternatives)) if request.alternatives else ()
        self.tokens.append(Token(chosen, log_probability(logits, chosen), others))
        if request.interject is not None:
            room = self.most - len(self.tokens)
            self.tokens += [Token(id, said=False) for id in request.interject(self.ids)[:room]]
        if len(self.tokens) == self.most:
            self.finish = self.at_most

    def check(self) -> None:
        """Raises what the answer ended with, if that was an error."""
        if self.error is not None:
            raise self.error


class Batch:
    """Up to `most` answers that grow together; they join and leave between steps. capacity: tokens of the longest."""

    def __init__(self, engine: Engine, most: int, capacity: int) -> None:
        self.engine = engine
        self.live: list[Answer] = []
        self.cache = Cache(engine.config, 0, capacity, engine.model.compute_dtype, engine.device, most=most)

    @property
    def free(self) -> int:
        return self.cache.most - len(self.live)

    @torch.inference_mode()
    def join(self, answers: Sequence[Answer]) -> None:
        """Read the prompts side by side and write the first token of each; who has not ended stays."""
        assert len(answers) <= self.free
        if not answers:
            return
        engine = self.engine
        longest = max(len(answer.request.prompt) for answer in answers)
        prompts = Cache(engine.config, len(answers), longest, engine.model.compute_dtype, engine.device)
        self._read(answers, prompts)
        for row, answer in enumerate(answers):
            if not answer.ended:
                self.cache.append(prompts, row)
                self.live.append(answer)

    @torch.inference_mode()
    def step(self) -> None:
        """One more token for every live answer; who has ended leaves."""
        self._read(self.live, self.cache)
        for answer in [answer for answer in self.live if answer.ended]:
            self.leave(answer)

    def leave(self, answer: Answer) -> None:
        """Forget an answer, whether it has ended or not."""
        row = self.live.index(answer)
        self.cache.drop(row)
        self.live[row] = self.live[-1]
        del self.live[-1]

    def _read(self, answers: Sequence[Answer], cache: Cache) -> None:
        """What each answer has unread goes through the model, and its next token comes of it."""
        fed = [answer.unread() for answer in answers]
        counts = [len(row) for row in fed]
        width = max(counts)
        device = self.engine.device
        ids = torch.tensor([[*row, *(0,) * (width - len(row))] for row in fed], device=device)
        hidden = self.engine.model.hidden(ids, cache=cache, counts=counts)
        last = hidden[torch.arange(len(fed), device=device), torch.tensor(counts, device=device) - 1]
        logits = self.engine.model.head(last).float().cpu()
        for row, answer in enumerate(answers):
            answer.read += counts[row]
            answer.take(logits[row])


class Generation(Iterator[Token]):
    """The tokens of one answer as they come; afterwards `finish` says why it ended. Dropping it ends the work."""

    def __init__(self, engine: Engine, answer: Answer) -> None:
        self.answer = answer
        self.batch = Batch(engine, 1, answer.longest)
        self.handed_out = 0

    @property
    def finish(self) -> Finish | None:
        return self.answer.finish

    def __next__(self) -> Token:
        if self.handed_out == len(self.answer.tokens) and not self.answer.ended:
            if self.batch.live:
                self.batch.step()
            else:
                self.batch.join([self.answer])
        if self.handed_out == len(self.answer.tokens):
            self.answer.check()
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
