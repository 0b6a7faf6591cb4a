"""How many questions with one right answer a chat model answers right: the quickstart's sums and functions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from picollm.conversation import Conversation, end_of_turn, render_prompt
from picollm.infer.engine import Engine, Request, Speech, text_of
from picollm.infer.sample import GREEDY

TOGETHER = 32  # questions decoded at once
LONGEST_ANSWER = 64  # tokens; longer than any right answer of smalltalk


class Question(Protocol):
    """Ways to ask, and the one answer."""

    @property
    def kind(self) -> str: ...
    @property
    def asks(self) -> tuple[str, ...]: ...
    @property
    def answer(self) -> str: ...


@dataclass(frozen=True)
class Score:
    """`right` of `asked`, of one kind."""

    kind: str
    right: int
    asked: int

    def to_json(self) -> dict[str, int | str]:
        return {"name": self.kind, "right": self.right, "n": self.asked}


def score(engine: Engine, tokenizer: Speech, questions: Sequence[Question]) -> list[Score]:
    """Exact, likeliest answers to the first way of asking, by kind, in the order the kinds come."""
    stops = end_of_turn(tokenizer)
    right: dict[str, list[bool]] = {}
    for start in range(0, len(questions), TOGETHER):
        group = questions[start : start + TOGETHER]
        prompts = [render_prompt(Conversation.of(question.asks[0]), tokenizer) for question in group]
        answers = engine.complete([Request(prompt, GREEDY, LONGEST_ANSWER, stops) for prompt in prompts])
        for question, answer in zip(group, answers, strict=True):
            said = "".join(text_of(iter(answer.tokens), tokenizer.stream()))
            right.setdefault(question.kind, []).append(said.strip() == question.answer)
    return [Score(kind, sum(found), len(found)) for kind, found in right.items()]
