"""Shards → the batches of a step: rows on this rank's device, read ahead by Rust threads.

The order of rows is a function of (data set, seed, packing, cursor) alone. Ranks, batch size, threads and what was
read ahead do not enter it, so a state of one short JSON resumes the exact stream under any of them.
"""

import functools
import json
import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch

from picollm import _rustbpe
from picollm.errors import ForkedProcessError
from picollm.loader.batch import Batch
from picollm.runtime.machine import usable_cores

MOST_THREADS = 4  # one copies hundreds of M tokens/s from memory (tests/bench/load.py); more only hide a slow disk


class Stream:
    """Batches of one rank, step by step.

    A step is `rows_per_step` (G) rows over all ranks: A = ⌈G / (n·B)⌉ batches of B rows for each of n ranks. Row
    (m·n + k)·B + b of the step goes to batch m of rank k, slot b; slots past G are masked (targets −100).

    `epochs=None` goes on for ever, each epoch in an order of its own; else the last step is filled with masked slots.
    `shuffle="none"` keeps the stored order (validation). `limit` uses the shortest prefix of documents that holds so
    many tokens. `prefetch` batches are read ahead of those lent. `fingerprint` and `tokenizer` (hex) are insisted on.

    Raises MissingError, ShardFormatError, ShardCorruptError, FingerprintMismatch, TokenizerMismatch or UsageError on
    opening; later ShardCorruptError or PicoError from a reading thread, and ForkedProcessError in a forked child.
    """

    def __init__(
        self,
        shards: Path,
        *,
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
        shuffle: Literal["global", "none"] = "global",
        epochs: int | None = None,
        limit: int | None = None,
        io: Literal["mmap", "pread"] = "mmap",
        threads: int | None = None,
        prefetch: int = 4,
        pin: bool = False,
        device: str | torch.device = "cpu",
        fingerprint: str | None = None,
        tokenizer: str | None = None,
    ) -> None:
        self._core = _rustbpe.Loader(
            shards,
            split=split,
            fingerprint=fingerprint,
            tokenizer=tokenizer,
            io=io,
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
            epochs=epochs,
            threads=threads or default_threads(),
        )
        self.micro_steps: int = self._core.micro_steps
        self.fingerprint: str = self._core.fingerprint
        self.vocab_size: int = self._core.vocab_size
        self.bos: int = self._core.bos
        self.documents: int = self._core.documents
        """Documents of an epoch."""
        self.tokens: int = self._core.tokens
        """Stored tokens of an epoch."""
        self._device = torch.device(device)
        shape = (self.micro_steps + max(0, prefetch), batch_size, seq_len)
        self._inputs = torch.empty(shape, dtype=torch.int32, pin_memory=pin).unbind()
        self._targets = torch.empty(shape, dtype=torch.int64, pin_memory=pin).unbind()
        self._copied: torch.cuda.Event | None = None
        self._closed = False
        self._forked = False
        _watch_forks()
        _open_streams.add(self)

    def next_step(self) -> list[Batch]:
        """The A batches of the next step, each (B, T), valid until the next call. StopIteration past the last epoch."""
        self._check_process()
        if not self._core.running and not self._closed:
            slots = [(i.data_ptr(), t.data_ptr()) for i, t in zip(self._inputs, self._targets, strict=True)]
            self._core.start(slots, (self._inputs, self._targets))
        if self._copied is not None:
            self._copied.synchronize()
        self._core.release()
        batches = []
        for _ in range(self.micro_steps):
            slot = self._core.next()
            if slot is None:
                raise StopIteration
            batches.append(self._moved(self._inputs[slot], self._targets[slot]))
        if self._device.type == "cuda":
            self._copied = torch.cuda.current_stream(self._device).record_event()
        return batches

    def state_dict(self) -> dict[str, Any]:
        """What was handed out, over all ranks: plain JSON of at most 400 bytes, equal on every rank."""
        state: dict[str, Any] = json.loads(self._core.state())
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken; the next step starts there. Raises LoaderStateError where it belongs to
        another data set or order, naming the first field that differs."""
        self._check_process()
        self._core.load(json.dumps(dict(state)))

    def close(self) -> None:
        """Stop and join the threads. Closing twice is fine; a closed stream raises UsageError at `next_step`."""
        self._check_process()
        self._core.close()
        self._closed = True

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _moved(self, inputs: torch.Tensor, targets: torch.Tensor) -> Batch:
        if self._device.type == "cpu":
            return Batch(inputs, targets)
        return Batch(inputs.to(self._device, non_blocking=True), targets.to(self._device, non_blocking=True))

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


_open_streams: "weakref.WeakSet[Stream]" = weakref.WeakSet()


@functools.cache
def _watch_forks() -> None:
    """Mark every open stream in a forked child, once per process: its threads do not exist there."""

    def mark() -> None:
        for stream in _open_streams:
            stream._forked = True

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=mark)
