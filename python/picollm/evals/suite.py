"""A model sits its exams: questions from files in, counts out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from picollm.conversation import BOS, PartKind, end_of_turn
from picollm.errors import MissingError, UsageError
from picollm.evals import chats, core, humaneval
from picollm.evals.exam import Result
from picollm.evals.questions import BATCH_TOKENS, right, score
from picollm.evals.sandbox import Sandbox
from picollm.infer.calculator import Calculator
from picollm.infer.engine import Engine, Request
from picollm.infer.sample import GREEDY
from picollm.infer.spoken import spoken
from picollm.model.gpt import GPT
from picollm.tok.tokenizer import Tokenizer

TASKS = ("bpb", "core", *chats.CHAT_TASKS)

CODE = "humaneval"
LONGEST_REPLY = 256
ROWS = 32  # replies written side by side


def core_results(
    model: GPT,
    tokenizer: Tokenizer,
    bundle: core.Bundle,
    most: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Iterator[Result]:
    """One result per task of the bundle, in its order. most: questions asked per task, None for all."""
    for task in bundle.tasks:
        asked, whole = core.questions(bundle, task, tokenizer.encode, tokenizer.specials[BOS], most)
        scores = score(model, asked, batch_tokens)
        count = sum(map(right, asked, scores))
        yield Result(task.name, count, len(asked), whole, task.baseline, task.shots)


def letter_result(
    model: GPT,
    tokenizer: Tokenizer,
    task: chats.ChatTask,
    path: Path,
    most: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Result:
    """ARC or MMLU: the share of questions whose right letter is the likeliest of the letters."""
    items, whole = chats.choices(path, most)
    asked = [chats.letter_question(item, tokenizer) for item in items]
    scores = score(model, asked, batch_tokens)
    return Result(task.name, sum(map(right, asked, scores)), len(asked), whole, task.baseline)


def replies(
    model: GPT, tokenizer: Tokenizer, prompts: Sequence[tuple[int, ...]], stops: frozenset[int], *, tool: bool
) -> list[str]:
    """Greedy replies, side by side; none to a prompt that leaves no room for one. tool: with the calculator."""
    engine = Engine(model)
    interject = Calculator(tokenizer) if tool else None
    said = [""] * len(prompts)
    fitting = [n for n, prompt in enumerate(prompts) if len(prompt) < engine.context]
    for start in range(0, len(fitting), ROWS):
        rows = fitting[start : start + ROWS]
        asked = [Request(prompts[n], GREEDY, LONGEST_REPLY, stops, interject=interject) for n in rows]
        for n, answer in zip(rows, engine.complete(asked), strict=True):
            words = spoken(answer.tokens, tokenizer) if tool else [(PartKind.TEXT, tokenizer.decode(answer.ids))]
            said[n] = "".join(text for kind, text in words if kind is PartKind.TEXT)
    return said


def number_result(
    model: GPT, tokenizer: Tokenizer, task: chats.ChatTask, path: Path, most: int | None = None
) -> Result:
    """GSM8K: replies with a calculator; a problem whose prompt leaves no room for one counts as wrong."""
    items, whole = chats.problems(path, most)
    said = replies(model, tokenizer, chats.prompts(items, tokenizer), end_of_turn(tokenizer), tool=True)
    count = sum(map(chats.solved, items, said))
    return Result(task.name, count, len(items), whole, task.baseline)


def code_result(
    model: GPT,
    tokenizer: Tokenizer,
    task: chats.ChatTask,
    path: Path,
    most: int | None,
    sandbox: Sandbox,
    answers: bool,
) -> Result:
    """HumanEval: the share of functions that pass their test, each run in the sandbox."""
    items, whole = humaneval.code_problems(path, most)
    stops = end_of_turn(tokenizer) if answers else frozenset({tokenizer.specials[BOS]})
    prompts = [humaneval.asked(item, tokenizer, answers) for item in items]
    said = replies(model, tokenizer, prompts, stops, tool=False)
    count = sum(sandbox.run(humaneval.trial(item, reply)).passed for item, reply in zip(items, said, strict=True))
    return Result(task.name, count, len(items), whole, task.baseline)


@dataclass(frozen=True)
class Exam:
    """How chat tasks are put to a model. most: questions of each task, None for all; sandbox: where code may run."""

    model: GPT
    tokenizer: Tokenizer
    answers: bool
    most: int | None = None
    batch_tokens: int = BATCH_TOKENS
    sandbox: Sandbox | None = None

    def result(self, task: chats.ChatTask, path: Path) -> Result:
        """One task's. Raises CheckError for a file that is not the task's."""
        if task.name == "gsm8k":
            return number_result(self.model, self.tokenizer, task, path, self.most)
        if task.name == CODE:
            assert self.sandbox is not None
            return code_result(self.model, self.tokenizer, task, path, self.most, self.sandbox, self.answers)
        return letter_result(self.model, self.tokenizer, task, path, self.most, self.batch_tokens)


def find_file(data: Path, task: chats.ChatTask) -> Path:
    """A task's file, under the name it has in a folder or on the Hub. Raises MissingError."""
    found = [*data.glob(task.pattern), *data.glob(f"*/{task.pattern}"), *data.glob(task.published)]
    if not found:
        raise MissingError(
            f"{data}: no {task.pattern} for {task.name}, here or one folder down",
            hint="--data FOLDER that holds it",
        )
    return min(found)


def check_tasks(names: tuple[str, ...], answers: bool) -> None:
    """Refuse tasks nobody knows, and letters from a model that only continues text. Raises UsageError."""
    for name in names:
        if name not in TASKS:
            raise UsageError(f"no task {name!r}", hint=f"--task one or more of {','.join(TASKS)}")
        if name in chats.CHAT_TASKS and name != CODE and not answers:
            raise UsageError(
                f"{name} asks a model that answers; this is a base model, which continues text",
                hint="picollm sft first, or --task bpb,core",
            )
