"""Describe a shard set, and check every promise its files make."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from picollm import _rustbpe
from picollm.errors import PicoError
from picollm.shards.build import Progress
from picollm.shards.lengths import lengths_of
from picollm.shards.manifest import HEADER_BYTES, ITEM_BYTES, SPLITS, ShardFile, ShardSet, Split
from picollm.tok.tokenizer import Tokenizer

INFO_SCHEMA = "picollm.shard-info/1"
VERIFY_SCHEMA = "picollm.shard-verify/1"
LENGTH_QUANTILES = (0.1, 0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True)
class Verified:
    """What `verify` found. `faults`: one sentence per file that is not what the manifest says."""

    path: Path
    files: int
    tokens: int
    payload_bytes: int
    faults: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {"schema": VERIFY_SCHEMA, **vars(self), "path": str(self.path), "faults": list(self.faults)}


def verify(folder: Path | str, progress: Progress | None = None) -> Verified:
    """Read every file of the newest manifest: headers, hashes, offsets, ids, parents.

    A damaged file is a fault in the answer; a set that cannot be opened raises as `ShardSet.open` does.
    """
    shards = ShardSet.open(folder)
    files = [file for split in SPLITS for file in shards.splits[split]]
    faults = []
    for file in files:
        fault = fault_of(shards, file, progress)
        if fault is not None:
            faults.append(fault)
    tokens = sum(file.n_tokens for file in files)
    width = np.dtype(shards.dtype).itemsize
    return Verified(shards.path, len(files), tokens, tokens * width, tuple(faults))


def fault_of(shards: ShardSet, file: ShardFile, progress: Progress | None) -> str | None:
    """What is wrong with one file, or None."""
    path = shards.path / f"{file.name}.bin"
    try:
        tokens, docs, text, payload, sidecar, tokenizer, segment, part = _rustbpe.verify_shard(str(path), progress)
    except PicoError as error:
        return error.message
    place = [int(number) for number in file.name.split("_")[1:]]
    for what, found, wanted in (
        ("tokens", tokens, file.n_tokens),
        ("documents", docs, file.n_docs),
        ("bytes of text", text, file.utf8_bytes),
        ("blake3", payload, file.blake3),
        ("blake3 of the offsets", sidecar, file.blake3_docs),
        ("tokenizer", tokenizer, shards.tokenizer_sha256),
        ("segment and part", [segment, part], [place[0], place[1] if len(place) > 1 else 0]),
    ):
        if found != wanted:
            return f"{path}: {what}: {found} in the file, {wanted} in the manifest"
    return None


def info(folder: Path | str) -> dict[str, Any]:
    """Counts, parents and document lengths of a set, as JSON values. Reads sidecars, no tokens."""
    shards = ShardSet.open(folder)
    source = dict(shards.manifest["source"])
    listed = source.pop("files")
    return {
        "schema": INFO_SCHEMA,
        "path": str(shards.path),
        "name": shards.name,
        "fingerprint": shards.fingerprint,
        "dtype": shards.dtype,
        "tokenizer": shards.manifest["tokenizer"],
        "source": {**source, "files": len(listed), "bytes": sum(file["size"] for file in listed)},
        "options": shards.manifest["options"],
        "segments": shards.manifest["segments"],
        "skipped": shards.manifest["skipped"],
        "splits": {split: {**vars(shards.totals[split]), "lengths": lengths(shards, split)} for split in SPLITS},
    }


def lengths(shards: ShardSet, split: Split) -> dict[str, int]:
    """Tokens of a document, BOS included, at some quantiles; empty without documents."""
    each = lengths_of(shards, split)
    if not len(each):
        return {}
    found = np.quantile(each, LENGTH_QUANTILES, method="nearest")
    return {f"p{quantile * 100:g}": int(value) for quantile, value in zip(LENGTH_QUANTILES, found, strict=True)}


def sample(folder: Path, count: int, seed: int) -> Iterator[tuple[str, int, str]]:
    """(file, document, text) of `count` training documents drawn by `seed`, all if there are fewer; in stored order."""
    shards = ShardSet.open(folder)
    tokenizer = Tokenizer.load(shards.path)
    sizes = [file.n_docs for file in shards.splits["train"]]
    total = sum(sizes)
    chosen = np.sort(np.random.default_rng(seed).choice(total, min(count, total), replace=False))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    for number in chosen.tolist():
        at = int(np.searchsorted(starts, number, side="right")) - 1
        path, document = shards.files("train")[at], number - int(starts[at])
        ends = np.load(path.with_suffix(".docs.npy"), mmap_mode="r", allow_pickle=False)
        wide = f"<u{ITEM_BYTES[shards.dtype]}"
        tokens = np.memmap(path, wide, "r", offset=HEADER_BYTES)[int(ends[document]) + 1 : int(ends[document + 1])]
        yield shards.splits["train"][at].name, document, tokenizer.decode(tokens.tolist())


def to_json(value: dict[str, Any]) -> str:
    """One JSON object for `--json`."""
    return json.dumps(value, indent=1, ensure_ascii=False)
