"""Shards → the batches of a step: rows on this rank's device, read ahead by Rust threads.

The order of rows is a function of (data set, seed, packing, cursor) alone. Ranks, batch size, threads and what was
read ahead do not enter it, so a state of one short JSON resumes the exact stream under any of them.
"""

import functools
import json
import math
import os
import weakref
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch

from picollm import _rustbpe
from picollm.errors import ForkedProcessError, UsageError
from picollm.loader.batch import Batch, documents_of, widened
from picollm.runtime.machine import usable_cores

MOST_THREADS = 4  # one copies hundreds of M tokens/s from memory (just bench data); more only hide a slow disk
MOST_ROUNDING = 0.01  # of a share: the rest of a block's whole rows; beyond it there is a note


class Stream:
    """Batches of one rank, step by step.

    A step is `rows_per_step` (G) rows over all ranks: A = ⌈G / (n·B)⌉ batches of B rows for each of n ranks. Row
    (m·n + k)·B + b of the step goes to batch m of rank k, slot b; slots past G are masked (targets −100).

    `shards`: one shard set, or several to be mixed by `weights`, shares of rows and so of tokens, exact in every 4,096
    rows. `epochs=None` goes on for ever, each epoch of each set in an order of its own; else the last step is filled
    with masked slots. `shuffle="none"` keeps the stored order (validation); `"block:K"` moves K neighbouring documents
    together. `limit` uses the shortest prefix of each set's documents that holds so many tokens. `prefetch` batches are
    read ahead of those lent. `fingerprint` (one for each set) and `tokenizer`, in hex, are insisted on. `verify` checks
    the content of the first file or of all before the first row; headers and sizes always are.

    `out="u16"` (where the device is CUDA) moves ids as stored and widens them there; `"i32i64"` does that in Rust.
    `cu_seqlens` says where documents begin, for attention that stays inside them. `mask_boundaries` makes the step from
    a document to the next no target. `patience`: seconds without an answer from the disk until a RuntimeWarning names
    the file and the byte, and until PicoError does (10 and 300).

    Raises MissingError, ShardFormatError, ShardCorruptError, FingerprintMismatch, TokenizerMismatch or UsageError on
    opening; later ShardCorruptError or PicoError from a reading thread, and ForkedProcessError in a forked child.
    """

    def __init__(
        self,
        shards: str | Path | Sequence[Path],
        *,
        weights: Sequence[float] | None = None,
        split: Literal["train", "val"] = "train",
        seq_len: int,
        batch_size: int,
        rows_per_step: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 1337,
        pack: Literal["bestfit", "concat"] = "bestfit",
        window: int = 16_384,
        max_docs: int | None = None,
        shuffle: str = "global",
        epochs: int | None = None,
        limit: int | None = None,
        io: Literal["mmap", "pread"] = "mmap",
        verify: Literal["sizes", "first", "all"] = "sizes",
        threads: int | None = None,
        prefetch: int = 4,
        out: Literal["u16", "i32i64"] | None = None,
        cu_seqlens: bool = False,
        mask_boundaries: bool = False,
        device: str | torch.device = "cpu",
        fingerprint: str | Sequence[str] | None = None,
        tokenizer: str | None = None,
        patience: tuple[float, float] | None = None,
    ) -> None:
        sets = [Path(shards)] if isinstance(shards, str | Path) else list(shards)
        self._device = torch.device(device)
        out = out or ("u16" if self._device.type == "cuda" else "i32i64")
        self._core = _rustbpe.Loader(
            sets,
            weights=whole(weights or [1] * len(sets)),
            split=split,
            fingerprints=insisted(fingerprint, len(sets)),
            tokenizer=tokenizer,
            io=io,
            verify=verify,
            limit=limit,
            seed=seed,
            seq_len=seq_len,
            window=window,
            pack=pack,
            max_docs=max_docs,
            shuffle=shuffle,
            batch_size=batch_size,
            rows_per_step=rows_per_step,
            rank=rank,
            world_size=world_size,
            out=out,
            bounds=cu_seqlens,
            mask_boundaries=mask_boundaries,
            epochs=epochs,
            threads=threads or default_threads(),
        )
        self.micro_steps: int = self._core.micro_steps
        self.fingerprints: list[str] = self._core.fingerprints
        self.vocab_size: int = self._core.vocab_size
        self.bos: int = self._core.bos
        self.documents: int = self._core.documents
        """Documents of an epoch, of all sets."""
        self.tokens: int = self._core.tokens
        """Stored tokens of an epoch, of all sets."""
        self._mask = self.bos if mask_boundaries else None
        slots = self.micro_steps + max(0, prefetch)
        pin = self._device.type == "cuda"

        def memory(dtype: torch.dtype, *shape: int) -> tuple[torch.Tensor, ...]:
            return torch.empty((slots, *shape), dtype=dtype, pin_memory=pin).unbind()

        self._stored = out == "u16"
        if self._stored:
            dtype = torch.int16 if self._core.token_bytes == 2 else torch.int32
            self._slots = [memory(dtype, batch_size, seq_len + 1), memory(torch.int32, batch_size)]
        else:
            self._slots = [memory(torch.int32, batch_size, seq_len), memory(torch.int64, batch_size, seq_len)]
        if cu_seqlens:
            self._slots.append(memory(torch.int32, self._core.bounds))
        self._shape = (batch_size, seq_len)
        self.notes: list[str] = notes(self._core, weights, rows_per_step * (seq_len + 1))
        """What whoever opened the stream should tell the user."""
        self._copied: torch.cuda.Event | None = None
        self._closed = False
        self._forked = False
        self._patience = () if patience is None else (patience,)
        _watch_forks()
        _open_streams.add(self)

    def next_step(self) -> list[Batch]:
        """The A batches of the next step, each (B, T), valid until the next call. StopIteration past the last epoch."""
        self._check_process()
        if not self._core.running and not self._closed:
            slots = [[part.data_ptr() for part in slot] for slot in zip(*self._slots, strict=True)]
            self._core.start([(*addresses, 0)[:3] for addresses in slots], self._slots)
        if self._copied is not None:
            self._copied.synchronize()
        self._core.release()
        batches = []
        for _ in range(self.micro_steps):
            slot = self._core.next(*self._patience)
            if slot is None:
                raise StopIteration
            batches.append(self._batch([part[slot] for part in self._slots]))
        if self._device.type == "cuda":
            self._copied = torch.cuda.current_stream(self._device).record_event()
        return batches

    def state_dict(self) -> dict[str, Any]:
        """What was handed out, over all ranks: plain JSON, equal on every rank; at most 400 bytes for a single set."""
        state: dict[str, Any] = json.loads(self._core.state())
        return state

    def load_state_dict(self, state: Mapping[str, Any], *, reweigh: bool = False) -> None:
        """Go on where `state` was taken; the next step starts there. `reweigh`: under this stream's weights, which
        the border of a block of 4,096 rows allows.

        Raises LoaderStateError where the state belongs to another data set or order, naming the first field that
        differs.
        """
        self._check_process()
        self._core.load(json.dumps(dict(state)), reweigh)

    def close(self) -> None:
        """Stop and join the threads. Closing twice is fine; a closed stream raises UsageError at `next_step`."""
        self._check_process()
        self._core.close()
        self._closed = True

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _batch(self, slot: list[torch.Tensor]) -> Batch:
        if self._device.type != "cpu":
            slot = [part.to(self._device, non_blocking=True) for part in slot]
        inputs, targets = widened(slot[0], slot[1], self._mask) if self._stored else slot[:2]
        if len(slot) < 3:
            return Batch(inputs, targets)
        return Batch(inputs, targets, documents_of(slot[2], *self._shape), slot[2])

    def _check_process(self) -> None:
        if self._forked:
            raise ForkedProcessError(
                f"this loader was opened in the parent of process {os.getpid()}; its threads stayed there",
                hint="open a new loader in the child, or start it with spawn",
            )


def default_threads() -> int:
    """Reading threads of one rank: its share of the CPUs, 1 to 4."""
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    return max(1, min(MOST_THREADS, usable_cores() // ranks_here))


def whole(weights: Sequence[float]) -> list[int]:
    """The weights in whole numbers of the same proportions: 0.7 and 0.3 are 7 and 3."""
    if not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise UsageError(f"weights {list(weights)}: each must be a number above 0")
    exact = [Fraction(str(weight)) for weight in weights]
    unit = math.lcm(*(weight.denominator for weight in exact))
    return [int(weight * unit) for weight in exact]


def insisted(fingerprint: str | Sequence[str] | None, sets: int) -> list[str | None]:
    """A fingerprint, or None, for each set."""
    if fingerprint is None:
        return [None] * sets
    given = [fingerprint] if isinstance(fingerprint, str) else list(fingerprint)
    if len(given) != sets:
        raise UsageError(f"{len(given)} fingerprints for {sets} shard sets")
    return [*given]


def notes(core: _rustbpe.Loader, weights: Sequence[float] | None, step_tokens: int) -> list[str]:
    """Shares that are off by rounding, and sets that a step reads more than once."""
    found = []
    for number, (weight, share) in enumerate(zip(weights or [1], core.shares, strict=True)):
        wanted = weight / sum(weights or [1])
        if abs(share - wanted) > MOST_ROUNDING * wanted:
            found.append(f"shard set {number} gets {share:.3%} of the rows, not {wanted:.3%}: whole ones of each 4,096")
    if core.tokens < step_tokens:
        found.append(f"a step takes {step_tokens:,} tokens, all shards hold {core.tokens:,}: it reads them again")
    return found


_open_streams: "weakref.WeakSet[Stream]" = weakref.WeakSet()


@functools.cache
def _watch_forks() -> None:
    """Mark every open stream in a forked child, once per process: its threads do not exist there."""

    def mark() -> None:
        for stream in _open_streams:
            stream._forked = True

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=mark)
