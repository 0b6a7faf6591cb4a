"""Conversations → rows for fine-tuning: packed whole, padded, never cropped, never crossing.

A row holds T+1 tokens. Conversations are placed best-fit, longest first, within windows of the epoch's order; the
rest of a row is padding of its own document, so attention masked by `documents` never looks across. A conversation
longer than a row is cut at the row's end, and counted. The order is a function of (content, seed, epoch) alone:
rank, batch size and history do not enter it, and a state of a few numbers resumes it exactly.
"""

import bisect
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha256

import numpy as np
import torch
from numpy.typing import NDArray

from picollm.conversation import Rendered
from picollm.errors import LoaderStateError, MissingError, UsageError
from picollm.loader.batch import IGNORE, Batch

WINDOW = 16_384  # conversations packed together; the same figure as the stream's
STATE_VERSION = 1


def pack(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Best-fit decreasing: rows of indices whose lengths sum to at most `room`. Ties go by index.

    Each length is within 1 … room. Every index is placed exactly once, whole.

    >>> pack([3, 9, 2, 7, 4], 9)
    [[1], [3], [4, 0, 2]]
    """
    rows: list[list[int]] = []
    waiting: dict[int, list[int]] = {}  # room left → rows, the newest on top
    rooms: list[int] = []  # the keys of `waiting`, sorted
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        length = lengths[index]
        place = bisect.bisect_left(rooms, length)
        if place == len(rooms):
            left, row = room, len(rows)
            rows.append([])
        else:
            left = rooms[place]
            row = waiting[left].pop()
            if not waiting[left]:
                del waiting[left], rooms[place]
        rows[row].append(index)
        left -= length
        if left not in waiting:
            waiting[left] = []
            bisect.insort(rooms, left)
        waiting[left].append(row)
    return rows


def shuffled(count: int, *words: int) -> list[int]:
    """0 … count−1 in an order that hashes of `words` and the index give: the same on every machine."""
    head = struct.pack(f"<{len(words)}Q", *words)
    keys = [
        blake2b(head + struct.pack("<Q", index), digest_size=16, person=b"picollm-dialogs").digest()
        for index in range(count)
    ]
    return sorted(range(count), key=keys.__getitem__)


@dataclass(frozen=True)
class DialogFacts:
    """What the rows are made of. Tokens count once per epoch."""

    conversations: int
    tokens: int
    trained_tokens: int
    cut: int  # conversations longer than a row
    cut_tokens: int
    silent: int  # conversations in which nothing is left to train on


class Store:
    """All conversations, cut to `row_tokens`, in flat arrays: 5 bytes a token."""

    def __init__(self, conversations: Iterable[Rendered], row_tokens: int) -> None:
        ids: list[NDArray[np.int32]] = []
        masks: list[NDArray[np.bool_]] = []
        cut = cut_tokens = silent = 0
        for conversation in conversations:
            over = max(0, len(conversation.ids) - row_tokens)
            cut, cut_tokens = cut + (over > 0), cut_tokens + over
            mask = np.array(conversation.mask[:row_tokens], dtype=np.bool_)
            silent += not mask[1:].any()
            ids.append(np.array(conversation.ids[:row_tokens], dtype=np.int32))
            masks.append(mask)
        if not ids:
            raise MissingError("no conversations to train on")
        self.lengths = [len(one) for one in ids]
        self.ids = np.concatenate(ids)
        self.mask = np.concatenate(masks)
        self.starts = np.cumsum([0, *self.lengths])
        trained = int(self.mask.sum()) - sum(bool(mask[0]) for mask in masks)
        self.facts = DialogFacts(len(ids), len(self.ids), trained, cut, cut_tokens, silent)

    def fingerprint(self) -> str:
        """sha256 over lengths, ids and masks: what a loader state belongs to."""
        digest = sha256(np.array(self.lengths, dtype="<i8").tobytes())
        digest.update(self.ids.astype("<i4").tobytes())
        digest.update(np.packbits(self.mask).tobytes())
        return digest.hexdigest()

    def plan_rows(self, room: int, seed: int, epoch: int, *, shuffle: bool) -> list[list[int]]:
        """The epoch's rows, in order, as lists of conversations."""
        count = len(self.lengths)
        order = shuffled(count, seed, epoch, 0) if shuffle else list(range(count))
        rows: list[list[int]] = []
        for start in range(0, count, WINDOW):
            window = order[start : start + WINDOW]
            rows += [[window[index] for index in row] for row in pack([self.lengths[doc] for doc in window], room)]
        if not shuffle:
            return rows
        return [rows[index] for index in shuffled(len(rows), seed, epoch, 1)]  # packing emits long ones first


class Dialogs:
    """Rows of conversations, by the protocol of `loader.stream.Stream`: `next_step`, `state_dict`, `close`.

    Row `s·G + (m·n + k)·B + b` is step s, micro-batch m, rank k of n, slot b; slots past G are masked. With `epochs`
    the last step is filled up with masked rows and the next call raises StopIteration; without, rows run on.
    """

    def __init__(
        self,
        conversations: Iterable[Rendered],
        *,
        seq_len: int,
        batch_size: int,
        rows_per_step: int,
        bos: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 1337,
        epochs: int | None = None,
        shuffle: bool = True,
        device: str = "cpu",
    ) -> None:
        if min(seq_len, batch_size, rows_per_step) < 1 or not 0 <= rank < world_size:
            raise UsageError(
                f"sequence {seq_len}, batch {batch_size}, rows per step {rows_per_step}, rank {rank} of {world_size}"
            )
        self.store = Store(conversations, seq_len + 1)
        self.seq_len, self.batch_size, self.rows_per_step = seq_len, batch_size, rows_per_step
        self.bos, self.rank, self.world_size = bos, rank, world_size
        self.seed, self.epochs, self.shuffle, self.device = seed, epochs, shuffle, torch.device(device)
        self.fingerprint = self.store.fingerprint()
        self.micro_steps = -(-rows_per_step // (batch_size * world_size))
        self.epoch, self.row, self.handed_out = 0, 0, 0
        self.rows = self.plan(0)

    @property
    def facts(self) -> DialogFacts:
        return self.store.facts

    def plan(self, epoch: int) -> list[list[int]]:
        return self.store.plan_rows(self.seq_len + 1, self.seed, epoch, shuffle=self.shuffle)

    def steps_in(self, epochs: int) -> int:
        """How many steps `epochs` passes take."""
        rows = sum(len(self.plan(epoch)) for epoch in range(epochs))
        return -(-rows // self.rows_per_step)

    def next_row(self) -> list[int] | None:
        """The conversations of the next row of the global order; None past the last epoch."""
        while self.row >= len(self.rows):
            if self.epochs is not None and self.epoch + 1 >= self.epochs:
                return None
            self.epoch, self.row = self.epoch + 1, 0
            self.rows = self.plan(self.epoch)
        self.row += 1
        self.handed_out += 1
        return self.rows[self.row - 1]

    def next_step(self) -> list[Batch]:
        """The micro-batches of this rank for the next step. Raises StopIteration past the last epoch."""
        step = [self.next_row() for _ in range(self.rows_per_step)]
        if step[0] is None:
            raise StopIteration
        return [self.batch(step, micro) for micro in range(self.micro_steps)]

    def batch(self, step: list[list[int] | None], micro: int) -> Batch:
        """Micro-batch `micro` of this rank: its slots of the step's rows."""
        inputs = np.full((self.batch_size, self.seq_len), self.bos, dtype=np.int32)
        targets = np.full((self.batch_size, self.seq_len), IGNORE, dtype=np.int64)
        documents = np.zeros((self.batch_size, self.seq_len), dtype=np.int32)
        first = (micro * self.world_size + self.rank) * self.batch_size
        for slot in range(self.batch_size):
            row = step[first + slot] if first + slot < len(step) else None
            if row is not None:
                self.fill(row, inputs[slot], targets[slot], documents[slot])
        move = [torch.from_numpy(array).to(self.device) for array in (inputs, targets, documents)]
        return Batch(inputs=move[0], targets=move[1], documents=move[2])

    def fill(
        self, row: list[int], inputs: NDArray[np.int32], targets: NDArray[np.int64], documents: NDArray[np.int32]
    ) -> None:
        """Write one row's views (T,). Target t is the token after input t, where it is to be said and is of the same
        conversation; documents are numbered from 0 in the row, and what is left over is one more."""
        at = 0
        for number, doc in enumerate(row):
            start, length = self.store.starts[doc], self.store.lengths[doc]
            ids, mask = self.store.ids[start : start + length], self.store.mask[start : start + length]
            seen = min(length, self.seq_len - at)  # the row's last token is a target only
            inputs[at : at + seen] = ids[:seen]
            documents[at : at + seen] = number
            targets[at : at + length - 1] = np.where(mask[1:], ids[1:], IGNORE)
            at += length
        documents[at:] = len(row)

    def state_dict(self) -> dict[str, object]:
        """Where the next row is: equal on all ranks, valid between steps."""
        return {
            "v": STATE_VERSION,
            "kind": "dialogs",
            **self.identity(),
            "epoch": self.epoch,
            "row": self.row,
            "rows": self.handed_out,
        }

    def identity(self) -> dict[str, object]:
        """What must be the same on resume."""
        return {
            "fingerprint": self.fingerprint,
            "seed": self.seed,
            "seq_len": self.seq_len,
            "window": WINDOW,
            "shuffle": self.shuffle,
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go to where `state` was taken. Raises LoaderStateError with the field and both values."""
        expected = {"v": STATE_VERSION, "kind": "dialogs", **self.identity()}
        for field, value in expected.items():
            if state.get(field) != value:
                raise LoaderStateError(
                    f"the saved loader state has {field} {state.get(field)!r}, this run has {value!r}",
                    hint="resume with the same conversations and options, or start a new run with --name",
                )
        epoch, row, handed_out = state.get("epoch"), state.get("row"), state.get("rows")
        if not (isinstance(epoch, int) and isinstance(row, int) and isinstance(handed_out, int) and epoch >= 0):
            raise LoaderStateError(f"the saved loader state is no position: epoch {epoch!r}, row {row!r}")
        rows = self.plan(epoch)
        if not 0 <= row <= len(rows):
            raise LoaderStateError(f"the saved loader state has row {row}, epoch {epoch} has {len(rows)}")
        self.epoch, self.row, self.handed_out, self.rows = epoch, row, handed_out, rows

    def close(self) -> None:
        """Nothing is held open."""
