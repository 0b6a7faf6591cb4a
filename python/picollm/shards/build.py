"""A source and a tokenizer → a shard set: plan once, run what is not committed, name the result last.

Restarting is running the same command again. A segment counts as done when its commit record parses, belongs to this
plan and all its files have their sizes; everything else is made again, to the same bytes.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Mapping
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
    ShardCorruptError,
    ShardFormatError,
    SourceChangedError,
)
from picollm.runtime import durable
from picollm.runtime.machine import usable_cores
from picollm.shards.manifest import (
    FORMAT,
    ITEM_BYTES,
    MANIFEST,
    MANIFESTS,
    SPLITS,
    TOKENIZER,
    ShardFile,
    ShardSet,
    Split,
    canonical,
    check_sizes,
    make_manifest,
)
from picollm.shards.plan import PLAN, Options, ShardPlan, TokenizerFacts, dtype_for, val_ppm_of

WORK = ".picollm"  # the lock and files in the making; nothing a reader needs
LOCK = "lock"
STAGING = "staging"  # below it: files that were fetched, one folder per process, until they are encoded
SPARE = 1.05  # of the disk space that the estimate asks for
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
    tokens: int | None,
    workers: int,
    staging: Staging,
    progress: Progress | None,
) -> None:
    """Make and commit what is not done, until the leading segments hold `tokens`; fetch what is not here."""
    there = {index: commit.train_tokens for index, commit in done.items()}
    todo = [segment for segment in plan.segments if segment.index not in done]
    folder = source.root if source.remote is None else own_folder(staging.folder or out / WORK / STAGING)
    wanted = Wanted(tokens, there)
    supply = source.supply(todo, folder, wanted, budget=staging.max_disk, others=staging.caches)
    with supply or contextlib.nullcontext():
        _rustbpe.shard_segments(
            plan=plan.data,
            root=str(folder),
            out=str(out),
            tokenizer_json=tokenizer_json,
            done=list(there.items()),
            tokens=tokens,
            workers=workers,
            supply=supply,
            progress=progress_with(supply, progress),
        )


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


def check_sources(plan: ShardPlan, source: Source, out: Path, workers: int) -> None:
    """Read again the files of segments that are still to be made, and compare. Raises SourceChangedError. Files that
    are fetched are compared when they come."""
    if source.remote is not None:
        return
    done = committed(plan, out)
    todo = [segment for segment in plan.body["segments"] if segment["index"] not in done]
    wanted = sorted({index for segment in todo for index in range(*segment["files"])})
    files = [plan.files[index] for index in wanted]
    for file, found in zip(files, sha256_files(source.root, files, workers), strict=True):
        if found != file.sha256:
            raise SourceChangedError(
                f"{source.root / file.path}: its sha256 is {found}, the plan of {out} says {file.sha256}",
                hint="put the old file back, or choose another folder: --out DIR",
            )


def record_name(index: int) -> str:
    return f"segment_{index:06d}.json"


def committed(plan: ShardPlan, out: Path) -> dict[int, Commit]:
    """Finished segments by index. Anything wrong with a record or a size means: not finished."""
    found = {}
    for segment in plan.body["segments"]:
        commit = read_commit(plan, out, segment)
        if commit is not None:
            found[commit.index] = commit
    return found


def read_commit(plan: ShardPlan, out: Path, segment: dict[str, Any]) -> Commit | None:
    path = out / record_name(segment["index"])
    try:
        record = json.loads(path.read_bytes())
        files = tuple(ShardFile.from_json(file, path) for file in record["files"])
        same = (
            record["format"] == FORMAT
            and record["plan"] == plan.hash
            and record["tokenizer"] == f"sha256:{plan.body['tokenizer']['sha256']}"
            and all(record["segment"][key] == value for key, value in segment.items())
        )
        for file in files:
            check_sizes(file.sizes(out, plan.body["options"]["dtype"]))
    except (OSError, ValueError, KeyError, TypeError, ShardFormatError, ShardCorruptError, MissingError):
        return None
    return Commit(segment["index"], record, files) if same else None


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
            f"{out}: {len(missing)} segments are missing, the first is {missing[0]}", hint="run the same command again"
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
