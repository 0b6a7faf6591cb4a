"""Questions for models that answer: letters by likelihood, numbers by what the reply ends with."""

import gzip
import json
from pathlib import Path
from typing import ClassVar

import pytest

from picollm.errors import CheckError, MissingError, UsageError
from picollm.evals.chats import CHAT_TASKS, Choice, Problem, choices, final_number, letter_question, problems, solved
from picollm.evals.suite import check_tasks, find_file

NAMES = ("<|bos|>", "<|user_start|>", "<|user_end|>", "<|assistant_start|>", "<|assistant_end|>")


class Bytes:
    """A tokenizer of bytes."""

    specials: ClassVar[dict[str, int]] = dict(zip(NAMES, range(256, 261), strict=True))

    def encode(self, text: str) -> list[int]:
        return list(text.encode())


def test_a_letter_is_asked_as_the_assistants_first_token() -> None:
    asked = letter_question(Choice("Which?", ("one", "two", "three"), 2), Bytes())
    assert asked.prefix[:2] == (256, 257)
    assert asked.prefix[-1] == 259
    assert asked.ends == ((65,), (66,), (67,))
    assert asked.gold == 2
    assert b"A. one\nB. two\nC. three" in bytes(i for i in asked.prefix if i < 256)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 72", "72"),
        ("first 3, then 4.50 eggs", "4.5"),
        ("1,234,567", "1234567"),
        ("a 5 #### minus -7.0", "-7"),
        ("####", None),
        ("no number", None),
    ],
)
def test_the_final_number_is_read_in_one_form(text: str, number: str | None) -> None:
    assert final_number(text) == number


def test_a_reply_counts_only_by_its_final_number() -> None:
    problem = Problem("?", "18")
    assert solved(problem, "9 * 2 = 18 #### 18")
    assert solved(problem, "it is 18.00")
    assert not solved(problem, "18 is wrong, it is 19")
    assert not solved(problem, "")


def test_published_files_are_read_as_they_are(shared: Path) -> None:
    for name, rows in (("arc-easy", 1900), ("arc-challenge", 938), ("mmlu", 14042)):
        found, whole = choices(find_file(shared / "data", CHAT_TASKS[name]), 5)
        assert whole == rows
        assert len(found) == 5
    found_problems, whole = problems(find_file(shared / "data", CHAT_TASKS["gsm8k"]), None)
    assert whole == len(found_problems) == 1319
    assert found_problems[0].number == "18"


@pytest.mark.parametrize(
    "line",
    [
        '{"question": "q", "choices": ["a"], "answer": 1}',
        '{"question": "q", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "B"}',
        "[1]",
        "{",
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"question": "q", "choices": ["a", "b"], "answer": 1}\n' + line + "\n")
    with pytest.raises(CheckError, match="line 2"):
        choices(path, None)


def test_a_truncated_gzip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps({"question": "q"}).encode())[:-6])
    with pytest.raises(CheckError, match="not readable"):
        problems(path, None)


def test_a_task_without_its_file_or_its_kind_of_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="ARC-Easy"):
        find_file(tmp_path, CHAT_TASKS["arc-easy"])
    with pytest.raises(UsageError, match="base model"):
        check_tasks(("bpb", "mmlu"), answers=False)
    with pytest.raises(UsageError, match="no task 'hellaswag'"):
        check_tasks(("hellaswag",), answers=True)
