"""CORE: 22 tasks over raw text for base models (DCLM, arXiv 2406.11794), from its bundle's own files.

The bundle is a folder or a zip with core.yaml (the tasks), eval_meta_data.csv (the baselines, in per cent) and
eval_data/**.jsonl. It is read where it lies: nothing is unpacked, and only files that core.yaml names are opened.
To match published scores items and examples are drawn as in the public harnesses: Python's Random(1337) shuffles a
task's items, of which the first are asked; the shots of item i are Random(1234 + i)'s sample of the other items.
"""

import csv
import io
import json
import random
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from picollm.errors import CheckError, MissingError
from picollm.evals.questions import Question, common_prefix, common_suffix

ITEMS_SEED, SHOTS_SEED = 1337, 1234
LARGEST_FILE = 1 << 28
FOLDER, ZIP, TASKS, BASELINES = "eval_bundle", "eval_bundle.zip", "core.yaml", "eval_meta_data.csv"

Item = dict[str, Any]
Encode = Callable[[str], list[int]]


@dataclass(frozen=True)
class Task:
    """One of the tasks. kind: multiple_choice, schema or language_modeling; baseline: accuracy by chance, 0 … 1."""

    name: str
    file: str
    kind: str
    shots: int
    delimiter: str
    baseline: float


class Bundle:
    """An evaluation bundle: a folder, a zip, or a folder that holds either. Raises MissingError, CheckError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root = open_bundle(path)
        self.tasks = tuple(self._tasks())

    def items(self, task: Task) -> list[Item]:
        """The task's items in the order in which they are asked."""
        items = []
        name = f"eval_data/{task.file}"
        for number, line in enumerate(self.read(name).splitlines(), 1):
            try:
                item = json.loads(line)
                text_of(task, item)
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise CheckError(f"{self.path}: {name} line {number}: not a {task.kind} item ({error!r})") from None
            items.append(item)
        if len(items) <= task.shots:
            raise CheckError(f"{self.path}: {name}: {len(items)} items, {task.shots + 1} are the least")
        random.Random(ITEMS_SEED).shuffle(items)
        return items

    def read(self, name: str) -> str:
        """A file of the bundle, as text, its size bounded before it is read."""
        if ".." in name.split("/"):
            raise CheckError(f"{self.path}: {name} lies outside the bundle")
        found = self.root / name
        if not found.is_file():
            raise MissingError(f"{self.path}: no {name} in the bundle")
        with found.open("rb") as file:
            data: bytes = file.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise CheckError(f"{self.path}: {name} is over {LARGEST_FILE:,} bytes")
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise CheckError(f"{self.path}: {name}: not UTF-8 at byte {error.start:,}") from None

    def _tasks(self) -> Iterator[Task]:
        rows = csv.DictReader(io.StringIO(self.read(BASELINES)))
        try:
            chance = {row["Eval Task"]: float(row["Random baseline"]) / 100 for row in rows}
            for said in yaml.safe_load(self.read(TASKS))["icl_tasks"]:
                yield Task(
                    name=said["label"],
                    file=said["dataset_uri"],
                    kind=said["icl_task_type"],
                    shots=int(said["num_fewshot"][0]),
                    delimiter=said.get("continuation_delimiter", " "),
                    baseline=chance[said["label"]],
                )
        except (KeyError, TypeError, ValueError, IndexError, yaml.YAMLError) as error:
            raise CheckError(
                f"{self.path}: {TASKS} and {BASELINES} do not say what the tasks are ({error!r})"
            ) from None


def open_bundle(path: Path) -> "Path | zipfile.Path":
    """Where core.yaml and the data lie."""
    for root in (path, path / FOLDER):
        if (root / TASKS).is_file() and (root / "eval_data").is_dir():
            return root
    for file in (path, path / ZIP):
        if file.is_file():
            try:
                archive = zipfile.Path(zipfile.ZipFile(file))
            except (zipfile.BadZipFile, OSError) as error:
                raise CheckError(f"{file}: not a readable zip ({error})") from None
            return archive / FOLDER if (archive / FOLDER).is_dir() else archive
    raise MissingError(
        f"{path}: no CORE bundle here ({TASKS} beside eval_data/, or {ZIP})",
        hint="--data FOLDER, where the bundle lies",
    )


def text_of(task: Task, item: Item) -> tuple[tuple[str, ...], int]:
    """The ways the item can be written out, and which is right; a single one for language_modeling."""
    between = task.delimiter
    if task.kind == "multiple_choice":
        return tuple(f"{item['query']}{between}{choice}" for choice in item["choices"]), checked(item, "choices")
    if task.kind == "schema":
        ways = tuple(f"{start}{between}{item['continuation']}" for start in item["context_options"])
        return ways, checked(item, "context_options")
    if task.kind == "language_modeling":
        return (f"{item['context'].strip()}{between}{item['continuation']}",), 0
    raise KeyError(task.kind)


def checked(item: Item, options: str) -> int:
    gold = item["gold"]
    if isinstance(gold, bool) or not isinstance(gold, int) or not 0 <= gold < len(item[options]):
        raise ValueError(f"gold {gold!r} of {len(item[options])} {options}")
    return gold


def examples(task: Task, items: Sequence[Item], index: int) -> str:
    """The solved items that are put before item `index`, each followed by a blank line."""
    others = [i for i in range(len(items)) if i != index]
    shots = random.Random(SHOTS_SEED + index).sample(others, task.shots)
    solved = []
    for shot in shots:
        ways, gold = text_of(task, items[shot])
        solved.append(f"{ways[gold]}\n\n")
    return "".join(solved)


def question(task: Task, items: Sequence[Item], index: int, encode: Encode, bos: int) -> Question:
    """Item `index` with its examples as ids. What is scored: the choices, the common continuation, or the answer."""
    before = examples(task, items, index)
    ways, gold = text_of(task, items[index])
    rows = [[bos, *encode(before + way)] for way in ways]
    if task.kind == "language_modeling":
        open_end = (before + items[index]["context"].strip() + task.delimiter).rstrip()
        shared = common_prefix([rows[0], [bos, *encode(open_end)]])
        return cut(rows, min(shared, len(rows[0]) - 1), None, gold)
    shared = min(common_prefix(rows), min(map(len, rows)) - 1)
    return cut(rows, shared, max(1, common_suffix(rows)) if task.kind == "schema" else None, gold)


def cut(rows: Sequence[Sequence[int]], shared: int, scored: int | None, gold: int) -> Question:
    """A question whose rows share their first `shared` ids; all of what follows is scored, or the last `scored`."""
    ends = tuple(tuple(row[shared:]) for row in rows)
    counts = tuple(len(end) if scored is None else min(scored, len(end)) for end in ends)
    return Question(tuple(rows[0][:shared]), ends, counts, gold)


def questions(bundle: Bundle, task: Task, encode: Encode, bos: int, most: int | None) -> tuple[list[Question], int]:
    """The first `most` questions of a task (all: None), and how many items it has."""
    items = bundle.items(task)
    asked = range(len(items) if most is None else min(most, len(items)))
    return [question(task, items, index, encode, bos) for index in asked], len(items)
