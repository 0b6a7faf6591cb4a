"""A model sits its exams: questions from files in, counts out."""

from collections.abc import Iterator
from pathlib import Path

from picollm.conversation import BOS, end_of_turn
from picollm.errors import MissingError, UsageError
from picollm.evals import chats, core
from picollm.evals.exam import Result
from picollm.evals.questions import BATCH_TOKENS, right, score
from picollm.infer.engine import Engine, Request
from picollm.infer.sample import GREEDY
from picollm.model.gpt import GPT
from picollm.tok.tokenizer import Tokenizer

TASKS = ("bpb", "core", *chats.CHAT_TASKS)

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


def number_result(
    model: GPT, tokenizer: Tokenizer, task: chats.ChatTask, path: Path, most: int | None = None
) -> Result:
    """GSM8K: greedy replies; a problem whose prompt leaves no room for one counts as wrong."""
    items, whole = chats.problems(path, most)
    engine = Engine(model)
    stops = end_of_turn(tokenizer)
    count = 0
    for start in range(0, len(items), ROWS):
        rows = items[start : start + ROWS]
        fits = [
            (item, Request(prompt, GREEDY, LONGEST_REPLY, stops))
            for item, prompt in zip(rows, chats.prompts(rows, tokenizer), strict=True)
            if len(prompt) < engine.context
        ]
        replies = engine.complete([request for _, request in fits]) if fits else []
        for (item, _), reply in zip(fits, replies, strict=True):
            count += chats.solved(item, tokenizer.decode([token.id for token in reply.tokens]))
    return Result(task.name, count, len(items), whole, task.baseline)


def chat_result(
    model: GPT, tokenizer: Tokenizer, task: chats.ChatTask, path: Path, most: int | None, batch_tokens: int
) -> Result:
    if task.name == "gsm8k":
        return number_result(model, tokenizer, task, path, most)
    return letter_result(model, tokenizer, task, path, most, batch_tokens)


def find_file(data: Path, task: chats.ChatTask) -> Path:
    """A task's file. Raises MissingError with the name it should have."""
    found = [*data.glob(task.pattern), *data.glob(f"*/{task.pattern}")]
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
        if name in chats.CHAT_TASKS and not answers:
            raise UsageError(
                f"{name} asks a model that answers; this is a base model, which continues text",
                hint="picollm sft first, or --task bpb,core",
            )
