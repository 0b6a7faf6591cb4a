"""How long the documents of a set are, and what packing makes of them at a row length."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from picollm import _rustbpe
from picollm.errors import MissingError, UsageError
from picollm.shards.manifest import ShardSet, Split

STATS_SCHEMA = "picollm.shard-stats/1"
PACKINGS = ("bestfit", "concat")
WINDOW = 16_384  # documents packed together, as the loader does unless it is told otherwise
ORDER_SEED = 1337  # of one order of the documents; any other gives the same shares within their spread
Lengths = np.ndarray[Any, np.dtype[np.uint32]]


@dataclass(frozen=True)
class Packed:
    """What a packing makes of all documents, once. Tokens in rows = stored + inserted BOS + padding; none is dropped.

    `cut`: documents in more than one piece; `cut_needlessly`: those of them that would have fitted a row.
    """

    packing: str
    rows: int
    padding_tokens: int
    inserted_bos: int
    cut: int
    cut_needlessly: int
    dropped_tokens: int = 0


def lengths_of(shards: ShardSet, split: Split) -> Lengths:
    """Tokens of each document, BOS included, in stored order; from the sidecars alone. uint32 (documents,)."""
    sidecars = [path.with_suffix(".docs.npy") for path in shards.files(split)]
    each = [np.diff(np.load(path, mmap_mode="r", allow_pickle=False)) for path in sidecars]
    return np.concatenate(each) if each else np.zeros(0, np.uint32)


def packed(lengths: Lengths, packing: str, seq_len: int) -> Packed:
    """Pack documents of these lengths, in one random order, window by window, into rows of `seq_len` + 1 tokens."""
    if seq_len < 1:
        raise UsageError(f"--max-seq-len {seq_len}: at least 1")
    order = np.random.default_rng(ORDER_SEED).permutation(len(lengths))
    windows = (lengths[order[start : start + WINDOW]] for start in range(0, len(order), WINDOW))
    counts = [_rustbpe.pack_counts(packing, window.tolist(), seq_len + 1) for window in windows]
    rows, inserted, cut, needlessly = (sum(column) for column in zip(*counts, strict=True))
    padding = rows * (seq_len + 1) - int(lengths.sum(dtype=np.int64)) - inserted
    return Packed(packing, rows, padding, inserted, cut, needlessly)


def histogram(lengths: Lengths) -> list[dict[str, int]]:
    """Documents and tokens by length: each bin goes from a power of two to one below the next."""
    exponents = np.floor(np.log2(lengths)).astype(int)
    bins = []
    for exponent in range(int(exponents.min()), int(exponents.max()) + 1):
        inside = lengths[exponents == exponent]
        tokens = int(inside.sum(dtype=np.int64))
        bins.append({"from": 2**exponent, "below": 2 ** (exponent + 1), "n_docs": len(inside), "n_tokens": tokens})
    return bins


def stats(folder: Path | str, seq_len: int) -> dict[str, Any]:
    """Histogram and packing shares of the training documents of a set, as JSON values. Raises MissingError."""
    shards = ShardSet.open(folder)
    lengths = lengths_of(shards, "train")
    if not len(lengths):
        raise MissingError(f"{shards.path}: not one training document", hint="lower --val-ppm, in a new folder")
    beyond = int(np.maximum(lengths.astype(np.int64) - (seq_len + 1), 0).sum())
    return {
        "schema": STATS_SCHEMA,
        "path": str(shards.path),
        "fingerprint": shards.fingerprint,
        "max_seq_len": seq_len,
        "n_docs": len(lengths),
        "n_tokens": shards.train_tokens,
        "tokens_beyond_a_row": beyond,
        "lengths": histogram(lengths),
        "packing": [vars(packed(lengths, packing, seq_len)) for packing in PACKINGS],
    }
