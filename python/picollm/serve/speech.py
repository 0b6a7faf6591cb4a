"""From a request to the engine's, and from its tokens to text that may be shown."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from picollm.conversation import BOS, Conversation, PartKind, end_of_turn, render_prompt
from picollm.infer.calculator import Calculator
from picollm.infer.engine import Finish, Request, Token
from picollm.infer.sample import Sampling
from picollm.infer.spoken import Spoken
from picollm.serve.api import ChatRequest, Sampled, TextRequest
from picollm.serve.worker import Job
from picollm.tok.tokenizer import Tokenizer

SECONDS = 120.0  # for one answer, the wait in line included
TEMPERATURE, TOP_K = 0.7, 50  # those of `picollm chat`
UNSAID_SEEDS = 2**31


@dataclass(frozen=True)
class Piece:
    """Text that may be shown, and the tokens that came with it; either may be empty.

    kind: the answer's words, a call of the calculator, or what that gave.
    """

    text: str
    tokens: tuple[Token, ...] = ()
    kind: PartKind = PartKind.TEXT


@dataclass(frozen=True)
class End:
    """`stop`: the model was done, or a stop string came; `length`: no room, or no time."""

    reason: str


class StopStrings:
    """Holds text back while it may still become a stop string, and ends the answer where one is whole.

    >>> filter = StopStrings(["END"])
    >>> filter.push("the E"), filter.push("N of it"), filter.push(" END more")
    (('the ', False), ('EN of it', False), (' ', True))
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self.stops = tuple(stops)
        self.held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """What may be shown now, and whether the answer is over."""
        self.held += text
        found = [at for stop in self.stops if (at := self.held.find(stop)) >= 0]
        if found:
            shown, self.held = self.held[: min(found)], ""
            return shown, True
        keep = max((self._beginning(stop) for stop in self.stops), default=0)
        cut = len(self.held) - keep
        shown, self.held = self.held[:cut], self.held[cut:]
        return shown, False

    def _beginning(self, stop: str) -> int:
        """The longest beginning of `stop`, short of all, that the held text ends with."""
        most = min(len(stop) - 1, len(self.held))
        return next((size for size in range(most, 0, -1) if self.held.endswith(stop[:size])), 0)

    def finish(self) -> str:
        shown, self.held = self.held, ""
        return shown


def sampling(said: Sampled) -> Sampling:
    """What was said, else what `picollm chat` does; an unsaid seed is drawn."""
    return Sampling(
        temperature=TEMPERATURE if said.temperature is None else said.temperature,
        top_k=TOP_K if said.top_k is None else said.top_k or None,
        top_p=1.0 if said.top_p is None else said.top_p,
        min_p=0.0 if said.min_p is None else said.min_p,
        seed=secrets.randbelow(UNSAID_SEEDS) if said.seed is None else said.seed,
    )


def chat_request(said: ChatRequest, tokenizer: Tokenizer) -> Request:
    """Raises CheckError for turns out of order, UsageError where the assistant spoke last."""
    messages = [message.model_dump() for message in said.messages]
    prompt = render_prompt(Conversation.from_json(messages), tokenizer)
    stops, tool = end_of_turn(tokenizer), Calculator(tokenizer)
    return Request(prompt, sampling(said), said.most, stops, said.alternatives or 0, tool)


def text_request(said: TextRequest, tokenizer: Tokenizer) -> Request:
    prompt = (tokenizer.specials[BOS], *tokenizer.encode(said.prompt))
    stops = frozenset({tokenizer.specials[BOS]})
    return Request(prompt, sampling(said), said.most, stops, said.alternatives or 0)


async def pieces(job: Job, heard: Spoken, stops: Iterable[str]) -> AsyncIterator[Piece | End]:
    """An answer as it may be shown: whole characters, nothing of a stop string. Ends with one `End`."""
    stop_strings = StopStrings(stops)
    reason = "length"
    try:
        async with asyncio.timeout(SECONDS):
            async for item in job.tokens():
                if isinstance(item, Finish):
                    reason = "stop" if item is Finish.STOP else "length"
                    break
                kind, text = heard.push(item.id)
                shown, over = stop_strings.push(text) if kind is PartKind.TEXT else (text, False)
                yield Piece(shown, (item,), kind)
                if over:
                    yield End("stop")
                    return
    except TimeoutError:
        reason = "length"
    kind, text = heard.finish()
    shown, over = stop_strings.push(text) if kind is PartKind.TEXT else (text, False)
    if shown:
        yield Piece(shown, kind=kind)
    if rest := "" if over else stop_strings.finish():
        yield Piece(rest)
    yield End("stop" if over else reason)
