"""Bits per byte of a model over a fixed set of validation rows (TRAINING 10.2)."""

from collections.abc import Sequence
from itertools import count
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from picollm.evals.baselines import Rows as FixedRows
from picollm.evals.result import HASH_WORDS, IGNORED, BitsPerByte, hash_rows, set_name
from picollm.loader.batch import Batch


class Scores(Protocol):
    """A model that says how surprised it was: ids (B, T), targets (B, T) → nats (B, T) fp32."""

    def token_losses(self, idx: Tensor, targets: Tensor, documents: Tensor | None = None) -> Tensor: ...


class Steps(Protocol):
    """A stream of this rank's share of rows; StopIteration past its end."""

    def next_step(self) -> Sequence[Batch]: ...


class Sums(Protocol):
    """The ranks: `sum_` adds a tensor over all of them, in place."""

    @property
    def size(self) -> int: ...
    def sum_(self, tensor: Tensor) -> object: ...


@torch.no_grad()
def bits_per_byte(
    model: Scores, stream: Steps, byte_lengths: Tensor, world: Sums, steps: int | None = None
) -> BitsPerByte:
    """Bits per byte over the next `steps` steps of `stream`, or all that is left; the same value on every rank.

    stream: validation rows in fixed order (shuffle none, one epoch); each rank reads its own share of every step.
    byte_lengths (V,): raw bytes each id spells, 0 for specials, which count in neither sum. Bytes through decoded
    text would be wrong for tokens that hold half a character.
    Sums are float64. The set of rows depends on rows_per_step and `steps` only, not on batch size or ranks.
    """
    lengths = byte_lengths.to("cpu", torch.int64)
    nats = 0.0
    counts = np.zeros(2 + HASH_WORDS, dtype=np.uint64)  # bytes, tokens, words of the set hash (these wrap)
    device = torch.device("cpu")
    for step in count():
        if step == steps:
            break
        try:
            batches = stream.next_step()
        except StopIteration:
            break
        for batch in batches:
            device = batch.inputs.device
            targets = batch.targets.to("cpu", torch.int64)
            if not bool((targets != IGNORED).any()):
                continue  # all its slots lie past the last row
            losses = model.token_losses(batch.inputs, batch.targets, batch.documents).to("cpu", torch.float64)
            spelled = torch.where(targets == IGNORED, 0, lengths[targets.clamp(min=0)])
            nats += float(losses[spelled > 0].sum())
            counts[0] += np.uint64(int(spelled.sum()))
            counts[1] += np.uint64(int((spelled > 0).sum()))
            counts[2:] += hash_rows(batch.inputs.to("cpu", torch.int32).numpy(), targets.to(torch.int32).numpy())
    return total(nats, counts, world, device)


def fixed_rows(stream: Steps, spelling: Sequence[bytes], steps: int | None = None) -> FixedRows:
    """The rows that `bits_per_byte` would read from a one-rank stream, for the baselines. spelling: id → raw bytes."""
    inputs, targets = [], []
    for step in count():
        if step == steps:
            break
        try:
            batches = stream.next_step()
        except StopIteration:
            break
        for batch in batches:
            keep = (batch.targets != IGNORED).any(dim=1).cpu().numpy()
            inputs.append(batch.inputs.to("cpu", torch.int32).numpy()[keep])  # a copy: the stream reuses its slots
            targets.append(batch.targets.to("cpu", torch.int32).numpy()[keep])
    empty = np.zeros((0, 0), np.int32)
    if not inputs:
        return FixedRows(empty, empty, spelling)
    return FixedRows(np.concatenate(inputs), np.concatenate(targets), spelling)


def total(nats: float, counts: np.ndarray, world: Sums, device: torch.device) -> BitsPerByte:
    """Add the ranks' shares. counts: bytes, tokens, then the set hash's words, uint64 that may wrap."""
    if world.size > 1:
        shared_nats = torch.tensor([nats], dtype=torch.float64, device=device)
        shared_counts = torch.from_numpy(counts.view(np.int64)).to(device)
        world.sum_(shared_nats)
        world.sum_(shared_counts)
        nats = float(shared_nats)
        counts = shared_counts.cpu().numpy().view(np.uint64)
    return BitsPerByte(nats=nats, bytes=int(counts[0]), tokens=int(counts[1]), set_hash=set_name(counts[2:]))
