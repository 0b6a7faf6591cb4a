"""Tasks for models that answer: ARC and MMLU by the likeliest letter, GSM8K by the number that the answer ends with.

The rows are the ones that the data sets publish, as .jsonl, .jsonl.gz or .parquet: ARC {question, choices{text, label},
answerKey}, MMLU {question, choices, answer}, GSM8K {question, answer}. HumanEval's are in `humaneval`.
"""

import gzip
import json
import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from picollm.conversation import Conversation, Encoder, render_prompt
from picollm.errors import CheckError
from picollm.evals.questions import Question

QUARTER = 0.25  # of four letters
LETTERS = string.ascii_uppercase
LARGEST_FILE = 1 << 28
MOST_ROWS = 1_000_000
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
FINAL = "####"

Item = dict[str, Any]


@dataclass(frozen=True)
class ChatTask:
    """pattern: what its file is called, in the folder of data or in a folder of that. baseline: accuracy by chance.

    repo, published: where the Hub has it, and under what name there.
    """

    name: str
    pattern: str
    baseline: float
    repo: str
    published: str


ARC = "allenai/ai2_arc"
CHAT_TASKS = {
    task.name: task
    for task in (
        ChatTask("arc-easy", "ARC-Easy-test.jsonl*", QUARTER, ARC, "ARC-Easy/test-*.parquet"),
        ChatTask("arc-challenge", "ARC-Challenge-test.jsonl*", QUARTER, ARC, "ARC-Challenge/test-*.parquet"),
        ChatTask("mmlu", "mmlu/test.jsonl*", QUARTER, "cais/mmlu", "all/test-*.parquet"),
        ChatTask("gsm8k", "gsm8k/test.jsonl*", 0.0, "openai/gsm8k", "main/test-*.parquet"),
        ChatTask("humaneval", "HumanEval.jsonl*", 0.0, "openai/openai_humaneval", "openai_humaneval/test-*.parquet"),
    )
}


@dataclass(frozen=True)
class Choice:
    """A question with lettered choices; gold is an index."""

    text: str
    choices: tuple[str, ...]
    gold: int

    def __post_init__(self) -> None:
        if not 0 <= self.gold < len(self.choices) <= len(LETTERS):
            raise ValueError(f"answer {self.gold} of {len(self.choices)} choices")

    def asked(self) -> str:
        """The user's turn."""
        options = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, self.choices, strict=False))
        return f"{self.text}\n\n{options}\n\nReply with the letter of the right answer."


def read_lines(path: Path) -> Iterator[tuple[int, Item]]:
    """(line number, object) of a .jsonl, .jsonl.gz or .parquet file. Raises CheckError."""
    if path.suffix == ".parquet":
        yield from read_rows(path)
        return
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except (OSError, EOFError) as error:
        raise CheckError(f"{path}: not readable ({error})") from None
    if len(data) > LARGEST_FILE:
        raise CheckError(f"{path}: over {LARGEST_FILE:,} bytes")
    for number, line in enumerate(data.splitlines(), 1):
        try:
            value = json.loads(line)
        except ValueError as error:
            raise CheckError(f"{path} line {number}: not JSON ({error})") from None
        if not isinstance(value, dict):
            raise CheckError(f"{path} line {number}: not an object")
        yield number, value


def read_rows(path: Path) -> Iterator[tuple[int, Item]]:
    """(row number, object) of a parquet file. Raises CheckError."""
    try:
        table = pq.ParquetFile(path)
        if table.metadata.num_rows > MOST_ROWS or path.stat().st_size > LARGEST_FILE:
            raise CheckError(f"{path}: over {MOST_ROWS:,} rows or {LARGEST_FILE:,} bytes")
        rows = table.read().to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise CheckError(f"{path}: not readable ({error})") from None
    yield from enumerate(rows, 1)


def choices(path: Path, most: int | None) -> tuple[list[Choice], int]:
    """The first `most` questions of an ARC or MMLU file, and how many it holds."""
    found = []
    for number, item in read_lines(path):
        try:
            found.append(choice_of(item))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckError(f"{path} line {number}: not a question with choices ({error!r})") from None
    return found[:most], len(found)


def choice_of(item: Item) -> Choice:
    if "answerKey" in item:
        labels = list(item["choices"]["label"])
        return Choice(str(item["question"]), tuple(item["choices"]["text"]), labels.index(item["answerKey"]))
    return Choice(str(item["question"]), tuple(item["choices"]), int(item["answer"]))


def letter_question(item: Choice, encoder: Encoder) -> Question:
    """The item as one turn, its ends the letters as the assistant's first token."""
    prompt = render_prompt(Conversation.of(item.asked()), encoder)
    ends = tuple(tuple(encoder.encode(LETTERS[i])) for i in range(len(item.choices)))
    return Question(prompt, ends, tuple(map(len, ends)), item.gold)


@dataclass(frozen=True)
class Problem:
    """A word problem and its number."""

    text: str
    number: str


def problems(path: Path, most: int | None) -> tuple[list[Problem], int]:
    """The first `most` problems of a GSM8K file, and how many it holds."""
    found = []
    for number, item in read_lines(path):
        try:
            answer = final_number(item["answer"])
            if FINAL not in item["answer"] or answer is None:
                raise ValueError(f"no {FINAL} number")
            found.append(Problem(str(item["question"]), answer))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckError(f"{path} line {number}: not a word problem ({error!r})") from None
    return found[:most], len(found)


def final_number(text: str) -> str | None:
    """The number after `####`, else the last one; without commas and trailing zeros, so that equal numbers are equal.

    >>> final_number("so 1,200.0 eggs"), final_number("7 then #### -3"), final_number("none")
    ('1200', '-3', None)
    """
    found = NUMBER.findall(text.rpartition(FINAL)[2]) if FINAL in text else NUMBER.findall(text)[-1:]
    if not found:
        return None
    whole, _, part = found[0].replace(",", "").partition(".")
    part = part.rstrip("0")
    return f"{whole}.{part}" if part else whole


def solved(problem: Problem, reply: str) -> bool:
    return final_number(reply) == problem.number


def prompts(items: Sequence[Problem], encoder: Encoder) -> list[tuple[int, ...]]:
    return [render_prompt(Conversation.of(item.text), encoder) for item in items]
