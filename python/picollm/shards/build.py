"""A source and a tokenizer → a shard set: plan once, run what is not committed, name the result last.

Restarting is running the same command again. A segment counts as done when its commit record is whole, belongs to this
plan and says of its files what their headers and sizes say; everything else is made again, to the same bytes.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picollm import _rustbpe
from picollm.corpus.source import Source, sha256_files
from picollm.corpus.supply import DEFAULT_STAGING, Staging, Wanted, clear, own_folder, progress_with
from picollm.errors import (
    DatasetIncompleteError,
    DiskFullError,
    MissingError,
    SourceChangedError,
    UsageError,
)
from picollm.runtime import durable
from picollm.runtime.machine import usable_cores
from picollm.shards.manifest import (
    ITEM_BYTES,
    MANIFEST,
    MANIFESTS,
    SPLITS,
    TOKENIZER,
    ShardFile,
    ShardSet,
    Split,
    canonical,
    make_manifest,
)
from picollm.shards.plan import PLAN, Options, ShardPlan, TokenizerFacts, dtype_for, val_ppm_of

WORK = ".picollm"  # the lock and files in the making; nothing a reader needs
LOCK = "lock"
STAGING = "staging"  # below it: files that were fetched, one folder per process, until they are encoded
SPARE = 1.05  # of the disk space that the estimate asks for
MAX_RAM = 2 << 30  # bytes, unless said otherwise
# Bytes: a build, and each segment at a time. A document past 10 MB adds two to four times its length (`just memory`):
# its line or page, its text and four bytes for each id, all at once, since a file is closed before it would overflow.
RAM_BASE, RAM_PER_WORKER = 150 << 20, 48 << 20
Progress = Callable[[Mapping[str, int]], object]


@dataclass(frozen=True)
class Commit:
    """A commit record that was checked against the plan and the sizes of its files."""

    index: int
    record: dict[str, Any]
    files: tuple[ShardFile, ...]

    @property
    def train_tokens(self) -> int:
        return sum(file.n_tokens for file in self.files if file.split == "train")


def build(
    source: Source,
    tokenizer: Path,
    out: Path,
    *,
    tokens: int | None = None,
    val_ppm: int | None = None,
    shard_tokens: int | None = None,
    dtype: str | None = None,
    workers: int | None = None,
    staging: Staging = DEFAULT_STAGING,
    progress: Progress | None = None,
) -> ShardSet:
    """Shard `source` into `out` with the tokenizer of a folder or file; go on where an earlier build stopped.

    `tokens`: the set is the shortest prefix of segments with so many training tokens; None is all. `workers`: segments
    at a time, without any effect on the bytes. `staging`: where the files of a source that is fetched
    wait. `progress` gets the counters of the running segments. An interruption
    (KeyboardInterrupt, or what a signal handler raises) passes through; what is committed stays.

    Raises UsageError, MissingError, CheckError and its children, BusyError.
    """
    data = read_tokenizer(tokenizer)
    facts = TokenizerFacts(*_rustbpe.tokenizer_facts(data))
    options = Options(val_ppm, shard_tokens, dtype)
    dtype_for(facts.vocab_size, dtype)  # refuses what cannot be before anything is made
    val_ppm_of(source, options)
    workers = workers or usable_cores()
    with durable.lock(out / WORK, LOCK):
        _rustbpe.clean_partial(str(out))
        plan = settle_plan(source, facts, options, out, workers)
        done = committed(plan, out)
        if not enough(done, plan, tokens):
            check_disk(plan, source, done, tokens, out, staging)
            run(plan, source, data, done, out, tokens=tokens, workers=workers, staging=staging, progress=progress)
        finalize(plan, out, data, tokens)
        clear(staging.folder or out / WORK / STAGING)
    return ShardSet.open(out)


def run(
    plan: ShardPlan,
    source: Source,
    tokenizer_json: bytes,
    done: dict[int, Commit],
    out: Path,
    *,
    only: Collection[int] | None = None,
    tokens: int | None = None,
    workers: int,
    staging: Staging,
    progress: Progress | None,
) -> None:
    """Make and commit what is not done, until the leading segments hold `tokens`; of `only` these segments, if given.
    Fetches what is not here.

    This is the one way to make segments: `build`, a task of several and a cluster's worker all come through here.
    """
    there = {index: commit.train_tokens for index, commit in done.items()}
    todo = [
        segment for segment in plan.segments if segment.index not in done and (only is None or segment.index in only)
    ]
    folder = source.root if source.remote is None else own_folder(staging.folder or out / WORK / STAGING)
    wanted = Wanted(tokens, there)
    supply = source.supply(todo, folder, wanted, budget=staging.max_disk, others=staging.caches)
    left_to_others = dict.fromkeys({segment.index for segment in plan.segments if segment not in todo}, 0)
    with supply or contextlib.nullcontext():
        _rustbpe.shard_segments(
            plan=plan.data,
            root=str(folder),
            out=str(out),
            tokenizer_json=tokenizer_json,
            done=sorted((left_to_others | there).items()),
            tokens=tokens,
            workers=workers,
            supply=supply,
            progress=progress_with(supply, progress),
        )


def workers_within(workers: int | None, max_ram: int) -> int:
    """Segments at a time: `workers`, else the cores there are, but no more than fit. Raises UsageError if none does."""
    most = (max_ram - RAM_BASE) // RAM_PER_WORKER
    if most < 1:
        raise UsageError(
            f"--max-ram {max_ram / 2**20:.0f} MiB: one segment at a time takes {(RAM_BASE + RAM_PER_WORKER) >> 20} MiB",
            hint=f"--max-ram {(RAM_BASE + RAM_PER_WORKER) // 2**20}M or more",
        )
    return min(workers or usable_cores(), most)


def read_tokenizer(path: Path) -> bytes:
    """The bytes of `tokenizer.json`, given by itself or by its folder. Raises MissingError."""
    file = path / TOKENIZER if path.is_dir() else path
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise MissingError(f"{file}: no tokenizer", hint="picollm tok train --vocab-size 65536") from None


def settle_plan(source: Source, facts: TokenizerFacts, options: Options, out: Path, workers: int) -> ShardPlan:
    """The plan of `out`, checked to be for the same thing; a new one where there is none."""
    plan = ShardPlan.load(out)
    if plan is not None:
        plan.check_same(source, facts, options, out)
        check_sources(plan, source, out, workers)
        return plan
    plan = ShardPlan.make(source.hashed(workers), facts, options)
    _rustbpe.publish(str(out), PLAN, plan.data)
    return plan


def check_sources(
    plan: ShardPlan, source: Source, out: Path, workers: int, only: Collection[int] | None = None
) -> None:
    """Read again the files of segments (of all, or `only` these) that are still to be made, and compare. Files that are
    fetched are compared when they come.

    Raises SourceChangedError.
    """
    if source.remote is not None:
        return
    done = committed(plan, out)
    wanted_here = range(len(plan.body["segments"])) if only is None else only
    todo = [plan.body["segments"][index] for index in wanted_here if index not in done]
    wanted = sorted({index for segment in todo for index in range(*segment["files"])})
    files = [plan.files[index] for index in wanted]
    for file, found in zip(files, sha256_files(source.root, files, workers), strict=True):
        if found != file.sha256:
            raise SourceChangedError(
                f"{source.root / file.path}: its sha256 is {found}, the plan of {out} says {file.sha256}",
                hint="put the old file back, or choose another folder: --out DIR",
            )


def committed(plan: ShardPlan, out: Path) -> dict[int, Commit]:
    """Finished segments by index. Anything wrong with a record, a header or a size means: not finished."""
    found = {}
    for index, data in enumerate(_rustbpe.committed_segments(plan.data, str(out))):
        if data is not None:
            record = json.loads(data)
            files = tuple(ShardFile.from_json(file, out) for file in record["files"])
            found[index] = Commit(index, record, files)
    return found


def prefix(done: dict[int, Commit], plan: ShardPlan, tokens: int | None) -> list[Commit] | None:
    """The shortest run of leading segments with `tokens` training tokens (all if there are fewer); None if one is
    missing."""
    leading: list[Commit] = []
    held = 0
    for index in range(len(plan.body["segments"])):
        if tokens is not None and held >= tokens:
            break
        if index not in done:
            return None
        leading.append(done[index])
        held += done[index].train_tokens
    return leading


def enough(done: dict[int, Commit], plan: ShardPlan, tokens: int | None) -> bool:
    return prefix(done, plan, tokens) is not None


def check_disk(
    plan: ShardPlan, source: Source, done: dict[int, Commit], tokens: int | None, out: Path, staging: Staging
) -> None:
    """Raises DiskFullError with both figures when the rest will not fit."""
    planned = len(plan.body["segments"])
    expected = source.estimated_tokens()
    left = expected * (planned - len(done)) // max(1, planned)
    if tokens is not None:
        left = min(left, tokens)
    needed = int(left * ITEM_BYTES[plan.body["options"]["dtype"]] * SPARE)
    if source.remote is not None:
        needed += min(staging.max_disk, source.size * left // max(1, expected))
    free = shutil.disk_usage(out).free
    if needed > free:
        raise DiskFullError(
            f"{out}: about {needed / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are free",
            hint="free some space, choose another folder with --out DIR, or take less with --tokens N",
        )


def finalize(plan: ShardPlan, out: Path, tokenizer_json: bytes, tokens: int | None) -> None:
    """Write the tokenizer and the manifest of the wanted prefix. Raises DatasetIncompleteError, MissingError."""
    done = committed(plan, out)
    leading = prefix(done, plan, tokens)
    if leading is None:
        missing = [index for index in range(len(plan.body["segments"])) if index not in done]
        raise DatasetIncompleteError(
            f"{out}: {len(missing)} segments are missing, the first is {missing[0]}",
            hint=f"run the same command again, or picollm shard run {out}",
        )
    files: dict[Split, list[ShardFile]] = {
        split: [file for commit in leading for file in commit.files if file.split == split] for split in SPLITS
    }
    if not files["train"] and not files["val"]:
        raise MissingError(f"{plan.body['source']['name']}: not one document in it", hint="give a source with text")
    manifest = make_manifest(plan.body, plan.hash, [commit.record for commit in leading], files)
    data = canonical(manifest)
    publish_new(out, TOKENIZER, tokenizer_json)
    publish_new(out, f"{MANIFESTS}/{manifest['fingerprint'][:16]}.json", data)
    publish_new(out, MANIFEST, data)


def publish_new(out: Path, name: str, data: bytes) -> None:
    """Write a file unless it stands there already, byte for byte."""
    path = out / name
    if not path.is_file() or path.read_bytes() != data:
        _rustbpe.publish(str(out), name, data)
