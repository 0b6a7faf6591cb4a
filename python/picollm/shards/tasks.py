"""One set, several machines: plan it once, make shares of it anywhere, name the result last.

Tasks meet in the set's folder and nowhere else. Any number of them, at once or one after the other, twice or killed in
between, end in the bytes of an unbroken build: they all make segments by `picollm.shards.build.run`.
"""

import contextlib
import importlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from picollm import _rustbpe
from picollm.corpus.catalog import CATALOG
from picollm.corpus.source import ReadOptions, Source, open_source
from picollm.corpus.supply import DEFAULT_STAGING, Staging
from picollm.errors import MissingError, SourceChangedError, UsageError
from picollm.layout import cache_dir
from picollm.runtime import durable
from picollm.runtime.machine import usable_cores
from picollm.shards.build import (
    LOCK,
    WORK,
    Progress,
    check_disk,
    check_sources,
    committed,
    finalize,
    publish_new,
    read_tokenizer,
    run,
    settle_plan,
)
from picollm.shards.manifest import MANIFEST, TOKENIZER, ShardSet, canonical, check_tokenizer
from picollm.shards.plan import Options, ShardPlan, TokenizerFacts, dtype_for, val_ppm_of

STATUS_SCHEMA = "picollm.shard-status/1"
PLACE = "source.json"  # in the workshop: where the source lies on the machine that planned
TASK = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")


@dataclass(frozen=True)
class Task:
    """Share `index` of `count`, counted from 0."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """`"0/3"` … `"2/3"`. Raises UsageError."""
        match = TASK.fullmatch(text)
        if match is None or int(match[1]) >= int(match[2]):
            raise UsageError(f"--task {text}: i/N with i from 0 to N-1, as in 0/3, 1/3 and 2/3")
        return cls(int(match[1]), int(match[2]))

    def of(self, segments: int) -> range:
        """The segments of this share: contiguous, so that a file is read by as few tasks as can be."""
        return range(self.index * segments // self.count, (self.index + 1) * segments // self.count)


@dataclass(frozen=True)
class Status:
    """How far a set is. `missing`: segments, by index; `train_tokens`: of the finished ones."""

    path: Path
    name: str
    segments: int
    missing: tuple[int, ...]
    train_tokens: int
    fingerprint: str | None

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        done = self.segments - len(self.missing)
        return {
            "schema": STATUS_SCHEMA,
            **vars(self),
            "path": str(self.path),
            "done": done,
            "missing": list(self.missing),
        }


def plan_set(
    source: Source,
    tokenizer: Path,
    out: Path,
    *,
    val_ppm: int | None = None,
    shard_tokens: int | None = None,
    dtype: str | None = None,
    workers: int | None = None,
) -> ShardPlan:
    """Freeze the segments of `source` in `out`, beside the tokenizer: all that tasks need but the source itself.

    Raises as `picollm.shards.build.build` does.
    """
    data = read_tokenizer(tokenizer)
    facts = TokenizerFacts(*_rustbpe.tokenizer_facts(data))
    options = Options(val_ppm, shard_tokens, dtype)
    dtype_for(facts.vocab_size, dtype)
    val_ppm_of(source, options)
    with durable.lock(out / WORK, LOCK):
        _rustbpe.clean_partial(str(out))
        plan = settle_plan(source, facts, options, out, workers or usable_cores())
        publish_new(out, TOKENIZER, data)
        durable.write(out / WORK / PLACE, canonical({"root": str(source.root), "fetched": source.remote is not None}))
    return plan


def planned(out: Path) -> ShardPlan:
    """The plan of a folder, its tokenizer being there. Raises MissingError, ShardFormatError, TokenizerMismatch."""
    plan = ShardPlan.load(out)
    if plan is None:
        raise MissingError(f"{out}: no plan.json", hint=f"picollm shard plan SOURCE --out {out}")
    check_tokenizer(out / TOKENIZER, plan.body["tokenizer"]["sha256"])
    return plan


def source_of(plan: ShardPlan, out: Path, root: Path | None = None) -> Source:
    """The planned source as it lies on this machine: below `root`, else where it was planned.

    Raises MissingError, SourceChangedError.
    """
    body, options = plan.body["source"], plan.body["options"]
    if body["kind"] == "stdlib":
        source = open_source("stdlib")
        if source.build != body.get("build"):
            raise SourceChangedError(f"{out}: planned with {body.get('build')}, this is {source.build}")
        return source
    read = ReadOptions(**{name: options[name] for name in ReadOptions.__dataclass_fields__ if name in options})
    if root is None:
        root = place(out)
    if root is None:
        return on_the_hub(body, read)
    if not root.is_dir():
        raise MissingError(f"{root}: the source of {out} is not there", hint="say where it is: --root FOLDER")
    return Source(body["name"], body["kind"], root, plan.files, read, options["val_ppm"], body["licence"])


def on_the_hub(body: Mapping[str, Any], read: ReadOptions) -> Source:
    """A source of the Hub at the commit of the plan, without asking for anything: its files come when they are read."""
    hub = importlib.import_module("picollm.corpus.hub")  # brings huggingface_hub, which nobody else here needs
    alias = CATALOG.get(body["name"])
    spec = body["name"] if alias is not None and alias.repo == body["repo"] else body["repo"]
    asked = hub.Asked(spec, body["config"], body["split"], body["revision"], read)
    source: Source | None = hub.pinned(body, read.text_column, asked, cache_dir())
    if source is None:
        raise MissingError(f"{body['name']}: the plan names files of the Hub that this picollm cannot place")
    return source


def place(out: Path) -> Path | None:
    """Where the source lay when `out` was planned; None for one that is fetched. Raises MissingError."""
    try:
        said = json.loads((out / WORK / PLACE).read_bytes())
        return None if said["fetched"] else Path(said["root"])
    except (OSError, ValueError, KeyError, TypeError):
        raise MissingError(f"{out}: does not say where its source lies", hint="say it: --root FOLDER") from None


def run_task(
    out: Path,
    task: Task | None = None,
    *,
    root: Path | None = None,
    workers: int | None = None,
    staging: Staging = DEFAULT_STAGING,
    progress: Progress | None = None,
) -> int:
    """Make the segments of a task that are not finished; all, if no task is given. Returns how many were made.

    Tasks cooperate, whatever runs beside them: two that overlap write equal bytes. Without a task this is the only
    writer, or raises BusyError. Raises as `build` does, but leaves the manifest to `finalize_set`.
    """
    if task is not None:
        plan = planned(out)
        _rustbpe.clean_partial(str(out))
        return make(plan, out, task.of(len(plan.body["segments"])), root, workers, staging, progress)
    with durable.lock(out / WORK, LOCK):
        plan = planned(out)
        _rustbpe.clean_partial(str(out))
        return make(plan, out, range(len(plan.body["segments"])), root, workers, staging, progress)


def make(
    plan: ShardPlan,
    out: Path,
    mine: Collection[int],
    root: Path | None = None,
    workers: int | None = None,
    staging: Staging = DEFAULT_STAGING,
    progress: Progress | None = None,
) -> int:
    """Make those of `mine` that are not finished. Returns how many that were."""
    done = committed(plan, out)
    todo = [index for index in mine if index not in done]
    if todo:
        workers = workers or usable_cores()
        source = source_of(plan, out, root)
        check_sources(plan, source, out, workers, todo)
        share = len(todo) / len(plan.body["segments"])
        check_disk(plan, source, done, int(source.estimated_tokens() * share), out, staging)
        tokenizer = read_tokenizer(out)
        shown = None if progress is None else only_mine(progress, len(plan.body["segments"]) - len(todo))
        run(plan, source, tokenizer, done, out, only=todo, workers=workers, staging=staging, progress=shown)
    return len(todo)


def only_mine(progress: Progress, others: int) -> Progress:
    """`progress` without the segments that are finished or another task's."""
    return lambda counters: progress(
        {**counters, "done": counters["done"] - others, "total": counters["total"] - others}
    )


def finalize_set(out: Path, tokens: int | None = None) -> ShardSet:
    """Name the result: the shortest prefix of segments with so many training tokens, or all.

    Raises DatasetIncompleteError with what is missing, MissingError, BusyError.
    """
    with durable.lock(out / WORK, LOCK):
        finalize(planned(out), out, read_tokenizer(out), tokens)
    return ShardSet.open(out)


def status(out: Path) -> Status:
    """How far the set of a plan is. Raises MissingError, ShardFormatError."""
    plan = ShardPlan.load(out)
    if plan is None:
        raise MissingError(f"{out}: no plan.json", hint=f"picollm shard plan SOURCE --out {out}")
    done = committed(plan, out)
    segments = len(plan.body["segments"])
    fingerprint = None
    with contextlib.suppress(MissingError):
        fingerprint = ShardSet.open(out).fingerprint if (out / MANIFEST).exists() else None
    return Status(
        path=out,
        name=plan.body["source"]["name"],
        segments=segments,
        missing=tuple(index for index in range(segments) if index not in done),
        train_tokens=sum(commit.train_tokens for commit in done.values()),
        fingerprint=fingerprint,
    )
