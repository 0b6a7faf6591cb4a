"""A toy shard set, and what the ranks that read it see."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from picollm.loader.stream import Stream

BOS = 65_527
T = 32
Rows = np.ndarray  # (rows, 2T) int64: inputs, then targets


def make_documents(count: int, seed: int, longest: int = 120) -> list[list[int]]:
    words = iter(np.frombuffer(blake3(bytes([seed])).digest(length=4 * count * (longest + 1)), "<u4").tolist())
    return [[BOS, *(next(words) % BOS for _ in range(1 + next(words) % longest))] for _ in range(count)]


TRAIN = make_documents(300, seed=1)
VAL = make_documents(40, seed=2)


def ranks(shards: Path | list[Path], n: int, **options: Any) -> list[Stream]:
    options = {"seq_len": T, "window": 64, "epochs": 3, "batch_size": 1, "rows_per_step": n} | options
    return [Stream(shards, rank=k, world_size=n, **options) for k in range(n)]


def read(streams: list[Stream], steps: int | None = None) -> Rows:
    """All rows of the stream in order, from what each rank sees; masked slots are left out."""
    rows = []
    for _ in range(steps) if steps is not None else itertools.count():
        try:
            seen = [stream.next_step() for stream in streams]
        except StopIteration:
            break
        for micro in zip(*seen, strict=True):
            for batch in micro:
                inputs, targets = batch.inputs.numpy(), batch.targets.numpy()
                rows.append(np.concatenate([inputs, targets], axis=1)[(targets != -100).any(axis=1)])
    for stream in streams:
        stream.close()
    return np.concatenate(rows)


def padded(tokens: list[int], seq_len: int = T) -> Rows:
    inputs = np.full(seq_len, BOS)
    targets = np.full(seq_len, -100)
    inputs[: len(tokens)] = tokens[:seq_len]
    targets[: len(tokens) - 1] = tokens[1:]
    return np.concatenate([inputs, targets])
