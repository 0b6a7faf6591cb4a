"""What a model must beat: three predictors without weights, on exactly the rows the model was evaluated on. No torch.

`unigram` and `bigram` (add-one) are fitted on training tokens and asked for the same targets, given the same inputs,
as the model. `gzip` compresses the validation text as one stream: it saw no training text, but may look back 32 KiB
over everything it has read, row borders or not. `gzip+train` stands where the model stands: every row alone, after
32 KiB of training text (as much as deflate can look back on). All are bits per byte of the same bytes.
"""

import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from picollm.evals.result import IGNORED, BitsPerByte, hash_rows, set_name

HEADER_BYTES = 1024  # of a shard, shards/README.md
CHUNK_TOKENS = 1 << 22
FIT_TOKENS = 100_000_000  # of the training split, from its start: ten seconds of counting on one core
WINDOW_BYTES = 32_768  # deflate, RFC 1951: the furthest a match may reach back

Ids = NDArray[np.int64]
Chunks = Callable[[], Iterable[Ids]]


@dataclass(frozen=True)
class Rows:
    """The validation rows of a run. inputs, targets (R, T) int32, −100 where nothing is asked; spelling: id → bytes."""

    inputs: NDArray[np.int32]
    targets: NDArray[np.int32]
    spelling: Sequence[bytes]

    def asked(self) -> tuple[Ids, Ids]:
        """Inputs and targets (n,) wherever the target spells at least one byte."""
        lengths = np.array([len(word) for word in self.spelling])
        wanted = self.targets != IGNORED
        wanted[wanted] = lengths[self.targets[wanted]] > 0
        return self.inputs[wanted].astype(np.int64), self.targets[wanted].astype(np.int64)

    def texts(self) -> list[bytes]:
        """What the targets of each row spell, specials left out."""
        return [b"".join(self.spelling[token] for token in row if token != IGNORED) for row in self.targets.tolist()]

    def result(self, nats: float) -> BitsPerByte:
        _, targets = self.asked()
        lengths = np.array([len(word) for word in self.spelling])
        name = set_name(hash_rows(self.inputs, self.targets))
        return BitsPerByte(nats=nats, bytes=int(lengths[targets].sum()), tokens=len(targets), set_hash=name)


def read_tokens(files: Iterable[Path], dtype: str, limit: int = FIT_TOKENS) -> Iterator[Ids]:
    """The first `limit` tokens of these shard files, in chunks (n,); a chunk never spans two files."""
    for file in files:
        tokens = np.memmap(file, np.dtype(dtype).newbyteorder("<"), "r", offset=HEADER_BYTES)
        for start in range(0, min(len(tokens), limit), CHUNK_TOKENS):
            yield tokens[start : min(start + CHUNK_TOKENS + 1, limit, len(tokens))].astype(np.int64)
        limit -= len(tokens)
        if limit <= 0:
            return


def unigram(train: Chunks, rows: Rows) -> BitsPerByte:
    """p(b) = (count(b) + 1) / (N + V), counted over training tokens."""
    vocab_size = len(rows.spelling)
    counts = np.zeros(vocab_size, dtype=np.int64)
    for chunk in train():
        counts += np.bincount(chunk[:CHUNK_TOKENS], minlength=vocab_size)
    _, targets = rows.asked()
    nats = math.log(counts.sum() + vocab_size) - np.log(counts[targets] + 1.0)
    return rows.result(float(nats.sum()))


def bigram(train: Chunks, rows: Rows) -> BitsPerByte:
    """p(b | a) = (count(a b) + 1) / (count(a) + V). Only pairs that validation asks for are counted: memory O(n)."""
    vocab_size = len(rows.spelling)
    inputs, targets = rows.asked()
    pairs, place = np.unique(inputs * vocab_size + targets, return_inverse=True)
    seen = np.zeros(len(pairs), dtype=np.int64)
    context = np.zeros(vocab_size, dtype=np.int64)
    for chunk in train():
        context += np.bincount(chunk[:-1], minlength=vocab_size)
        found, count = np.unique(chunk[:-1] * vocab_size + chunk[1:], return_counts=True)
        _, at, of = np.intersect1d(pairs, found, assume_unique=True, return_indices=True)
        seen[at] += count[of]
    nats = np.log(context[inputs] + float(vocab_size)) - np.log(seen[place] + 1.0)
    return rows.result(float(nats.sum()))


def gzip_alone(rows: Rows) -> BitsPerByte:
    """The size of `gzip -9` of the validation text as one file, header and trailer included."""
    packer = zlib.compressobj(level=9, wbits=31)
    size = sum(len(packer.compress(text)) for text in rows.texts()) + len(packer.flush())
    return rows.result(8 * size * math.log(2))


def gzip_primed(train_text: bytes, rows: Rows) -> BitsPerByte:
    """Deflate level 9, every row alone, with the last 32 KiB of `train_text` as its past; raw, so no headers."""
    primer = train_text[-WINDOW_BYTES:]
    size = 0
    for text in rows.texts():
        if text:
            packer = zlib.compressobj(level=9, wbits=-15, zdict=primer)
            size += len(packer.compress(text)) + len(packer.flush())
    return rows.result(8 * size * math.log(2))


def measure(files: Sequence[Path], dtype: str, rows: Rows, fit_tokens: int = FIT_TOKENS) -> dict[str, BitsPerByte]:
    """All baselines by name. files: the training split's shards; dtype: "uint16" or "uint32"."""

    def train() -> Iterator[Ids]:
        return read_tokens(files, dtype, fit_tokens)

    first = next(train(), np.zeros(0, dtype=np.int64))
    primer = b"".join(rows.spelling[token] for token in first[:WINDOW_BYTES].tolist())
    return {
        "unigram": unigram(train, rows),
        "bigram": bigram(train, rows),
        "gzip": gzip_alone(rows),
        "gzip+train": gzip_primed(primer, rows),
    }
