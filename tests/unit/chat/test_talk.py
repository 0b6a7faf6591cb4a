"""Turns, memory and limits of a conversation, with a real model that says nonsense."""

import codecs
from collections.abc import Sequence

import pytest
import torch

from picollm.chat.repl import Talk, converse
from picollm.conversation import Message, Role
from picollm.errors import UsageError
from picollm.infer.engine import Engine, Finish
from picollm.infer.sample import Sampling
from picollm.infer.spoken import shown
from picollm.model.config import shape
from picollm.model.init import build

NAMES = ["bos", *(f"{who}_{end}" for who in ("user", "assistant", "python", "output") for end in ("start", "end"))]
T = 96


class Decoder:
    def __init__(self) -> None:
        self.inner = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return self.inner.decode(bytes([token])) if token < 256 else ""

    def finish(self) -> str:
        return self.inner.decode(b"", final=True)


class Bytes:
    """256 bytes and the nine specials: the smallest tokenizer."""

    def __init__(self) -> None:
        self.specials = {f"<|{name}|>": 256 + index for index, name in enumerate(NAMES)}

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(id for id in ids if id < 256).decode(errors="replace")

    def stream(self) -> Decoder:
        return Decoder()


@pytest.fixture(scope="module")
def engine() -> Engine:
    model = build(shape(2, 265, T, "L"), seed=3, device="cpu")
    noise = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=noise) * 0.2)
    return Engine(model)


def talk(engine: Engine, *, chats: bool = True, max_tokens: int = 10, seed: int = 1) -> Talk:
    return Talk(engine, Bytes(), chats, Sampling(1.0, seed=seed), max_tokens)


def seen(message: Message) -> str:
    """What a terminal showed of it."""
    return "".join(shown((part.kind, part.text) for part in message.parts))


@pytest.mark.row("J3")
def test_the_same_seed_answers_the_same_and_another_seed_otherwise(engine: Engine) -> None:
    said = ["".join(talk(engine, seed=seed).reply("who are you?")) for seed in (1, 1, 2)]
    assert said[0] == said[1] != said[2]


def test_what_was_said_is_part_of_the_next_prompt(engine: Engine) -> None:
    one = talk(engine)
    first = "".join(one.reply("a"))
    list(one.reply("b"))
    assert one.said is not None
    assert [seen(message) for message in one.said.turns[:3]] == ["a", first, "b"]
    assert one.last is not None
    assert len(one.last.answer.request.prompt) > 10
    one.forget()
    assert "".join(one.reply("a")) == first


def test_a_stopped_answer_is_remembered_as_far_as_it_went(engine: Engine) -> None:
    one = talk(engine, max_tokens=40)
    pieces = one.reply("a")
    begun = next(pieces) + next(pieces)
    pieces.close()
    assert one.said is not None
    assert one.said.turns[-1].role is Role.ASSISTANT
    assert seen(one.said.turns[-1]).removesuffix("]") == begun


def test_a_full_context_forgets_the_oldest_turns_and_says_so(engine: Engine) -> None:
    one, notes = talk(engine), []
    lines = iter(["first question", "second question", "third question", "fourth question"])

    def ask() -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    converse(one, ask, lambda piece: None, notes.append)
    assert any("earlier questions left out" in note for note in notes)
    assert one.said is not None
    assert "first question" not in [message.text for message in one.said.messages]
    assert one.said.turns[-2].text == "fourth question"


def test_a_message_that_no_context_holds_is_refused_and_the_talk_goes_on(engine: Engine) -> None:
    one, notes = talk(engine), []
    with pytest.raises(UsageError, match=f"context is {T}"):
        list(one.reply("x" * 200))
    lines = iter(["x" * 200, "/new", "/nonsense", "hi", "/quit"])
    written: list[str] = []
    converse(one, lambda: next(lines), written.append, notes.append)
    assert any("fewer words" in note for note in notes)
    assert one.said is not None
    assert one.said.turns[0].text == "hi"


def test_a_base_model_continues_text_and_remembers_nothing(engine: Engine) -> None:
    one = talk(engine, chats=False, max_tokens=T)
    list(one.reply("def f("))
    assert one.said is None
    assert one.last is not None
    assert one.last.answer.request.prompt == (256, *b"def f(")
    assert one.last.finish in (Finish.CONTEXT, Finish.STOP)
