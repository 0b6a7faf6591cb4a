"""Talk in a terminal: one answer or many turns, streamed, with nothing in it that a terminal would obey."""

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from picollm.ckpt import protocol
from picollm.ckpt.store import load_model
from picollm.conversation import BOS, Conversation, Message, Role, end_of_turn, render_prompt
from picollm.errors import PicoError, UsageError
from picollm.infer.calculator import Calculator, Voice
from picollm.infer.engine import Engine, Finish, Generation, Request, Speech, text_of
from picollm.infer.sample import Sampling
from picollm.infer.spoken import Piece, parts_of, shown, spoken
from picollm.model.counts import count

BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
REPLACEMENT = "\ufffd"
COMMANDS = "/new forgets the conversation · /quit leaves · Ctrl-C stops an answer"


def printable(text: str) -> str:
    """`text` without control, escape and bidi characters; newline and tab stay, a lone surrogate becomes U+FFFD.

    >>> printable("\\x1b[31mred\\x07")
    '[31mred'
    """
    kept = []
    for character in text:
        category = unicodedata.category(character)
        if category == "Cs":
            kept.append(REPLACEMENT)
        elif character in "\n\t" or (category != "Cc" and character not in BIDI):
            kept.append(character)
    return "".join(kept)


class Tongue(Speech, Voice, Protocol):
    """A tokenizer that reads, speaks as it goes, and reads back."""


@dataclass
class Talk:
    """A model and what has been said. A base model (`chats` False) only continues text and remembers nothing.

    A model that answers has a calculator.
    """

    engine: Engine
    tokenizer: Tongue
    chats: bool
    how: Sampling
    max_tokens: int
    system: str | None = None
    said: Conversation | None = None
    forgotten: int = 0  # exchanges dropped from the last prompt because the context was full
    last: Generation | None = field(default=None, repr=False)

    def reply(self, text: str) -> Iterator[str]:
        """The answer to `text` in pieces. Once it has begun, what was written of it is remembered, even if cut off."""
        if not self.chats:
            yield from self.continuation(text)
            return
        asked = self.ask(text)
        prompt, asked, self.forgotten = self.fit(asked)
        stops = end_of_turn(self.tokenizer)
        request = Request(prompt, self.how, self.max_tokens, stops, interject=Calculator(self.tokenizer))
        self.last = self.engine.start(request)
        written: list[Piece] = []

        def heard() -> Iterator[Piece]:
            assert self.last is not None
            for piece in spoken(self.last, self.tokenizer):
                written.append(piece)
                yield piece

        try:
            yield from shown(heard())
        finally:
            if written:
                self.said = asked.and_then(Message(Role.ASSISTANT, parts_of(written)))

    def continuation(self, text: str) -> Iterator[str]:
        prompt = (self.tokenizer.specials[BOS], *self.tokenizer.encode(text))
        stops = frozenset({self.tokenizer.specials[BOS]})
        self.last = self.engine.start(Request(prompt, self.how, self.max_tokens, stops))
        yield from text_of(self.last, self.tokenizer.stream())

    def ask(self, text: str) -> Conversation:
        if self.said is None:
            return Conversation.of(text, system=self.system)
        return self.said.and_then(Message.of(Role.USER, text))

    def fit(self, asked: Conversation) -> tuple[tuple[int, ...], Conversation, int]:
        """The prompt, the oldest exchanges left out until a quarter of the context is free for the answer."""
        room = self.engine.context - min(self.max_tokens, self.engine.context // 4)
        for forgotten in range(len(asked.turns) // 2 + 1):
            prompt = render_prompt(asked, self.tokenizer)
            if len(prompt) <= room:
                return prompt, asked, forgotten
            if len(asked.turns) > 1:
                asked = asked.without_oldest_exchange()
        if len(prompt) < self.engine.context:
            return prompt, asked, forgotten
        raise UsageError(
            f"the message takes {len(prompt):,} tokens; this model's context is {self.engine.context:,}",
            hint="say it in fewer words",
        )

    def forget(self) -> None:
        self.said, self.forgotten = None, 0


def open_talk(
    path: Path, how: Sampling, *, max_tokens: int, system: str | None = None, device: str = "cpu"
) -> tuple[Talk, str]:
    """Talk to the model of a run or checkpoint folder, and one line about it."""
    model, config, tokenizer, meta = load_model(path, device)
    sha256 = protocol.verify(meta.path, only=()).sha256
    about = f"{meta.stage}, step {meta.step:,}, {count(config).total:,} parameters, {sha256[:12]}"
    return Talk(Engine(model), tokenizer, meta.stage == "sft", how, max_tokens, system), about


def converse(talk: Talk, ask: Callable[[], str], write: Callable[[str], None], note: Callable[[str], None]) -> None:
    """Turn by turn until the input ends. Answers go to `write` in pieces, remarks to `note`; an error ends one turn."""
    note(COMMANDS if talk.chats else "a base model: it continues your text and does not answer · /quit leaves")
    while True:
        try:
            text = ask().strip()
        except (EOFError, KeyboardInterrupt):
            note("")
            return
        if text in ("/quit", "/exit"):
            return
        if text == "/new":
            talk.forget()
            note("forgotten")
        elif text.startswith("/") and text[1:].isalpha():
            note(COMMANDS)
        elif text:
            try:
                answer(talk, text, write, note)
            except KeyboardInterrupt:
                note("\nstopped")
            except PicoError as error:
                note(error.message if error.hint is None else f"{error.message}: {error.hint}")


def answer(talk: Talk, text: str, write: Callable[[str], None], note: Callable[[str], None]) -> None:
    """One turn, with a remark where the context was too small for it."""
    for piece in talk.reply(text):
        write(piece)
    write("\n")
    if talk.forgotten:
        note(
            f"the context of {talk.engine.context:,} tokens is full:"
            f" {talk.forgotten} earlier questions left out · /new starts afresh"
        )
    if talk.last is not None and talk.last.finish is Finish.CONTEXT:
        note("the answer ended where the context did")
