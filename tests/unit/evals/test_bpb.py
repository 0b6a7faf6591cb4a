"""Bits per byte counts raw bytes, and neither batch size nor ranks move it."""

import itertools
import math
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from picollm.evals.bpb import bits_per_byte
from picollm.loader.batch import Batch

VOCAB = 50
LENGTHS = torch.tensor([0, *([1, 2, 3, 4, 5, 6, 7] * 7)])  # id 0 is special


class Fixed:
    """Rows cut once, dealt as (step, micro-batch, rank, slot), short steps padded with masked slots."""

    def __init__(self, rows: np.ndarray, rows_per_step: int, batch: int, rank: int = 0, size: int = 1) -> None:
        self.steps = self.deal(rows, rows_per_step, batch, rank, size)

    def deal(self, rows: np.ndarray, rows_per_step: int, batch: int, rank: int, size: int) -> Iterator[list[Batch]]:
        micro = math.ceil(rows_per_step / (batch * size))
        for start in range(0, len(rows), rows_per_step):
            block = rows[start : min(start + rows_per_step, len(rows))]
            full = np.zeros((micro * size * batch, rows.shape[1]), np.int64)
            full[: len(block)] = block
            targets = full[:, 1:].copy()
            targets[len(block) :] = -100
            yield [
                Batch(torch.from_numpy(full[at : at + batch, :-1]).int(), torch.from_numpy(targets[at : at + batch]))
                for at in range(rank * batch, len(full), size * batch)
            ]

    def next_step(self) -> list[Batch]:
        return next(self.steps)


class Bigram:
    """A model of one table, in float64, so that only the order of sums can differ."""

    def __init__(self, spread: float) -> None:
        table = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        self.nats = -torch.log_softmax(spread * table, dim=1)

    def token_losses(self, idx: Tensor, targets: Tensor, documents: Tensor | None = None) -> Tensor:
        nats = self.nats[idx.long(), targets.clamp(min=0)]
        return torch.where(targets == -100, 0.0, nats)


class Alone:
    size = 1

    def sum_(self, tensor: Tensor) -> None: ...


class Together:
    """Ranks as threads; sums meet at a barrier."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = threading.Barrier(size)
        self.lock = threading.Lock()
        self.given: list[Tensor] = []

    def sum_(self, tensor: Tensor) -> None:
        with self.lock:
            self.given.append(tensor.clone())
        self.barrier.wait()
        tensor.copy_(torch.stack(self.given).sum(0))
        if self.barrier.wait() == 0:
            self.given.clear()
        self.barrier.wait()


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(7).integers(0, VOCAB, (23, 9))


def test_uniform_logits_give_the_logarithm_of_the_vocabulary_per_token(rows: np.ndarray) -> None:
    found = bits_per_byte(Bigram(0.0), Fixed(rows, 8, 4), LENGTHS, Alone())
    assert found.bpb == pytest.approx(math.log2(VOCAB) * found.tokens / found.bytes, rel=1e-12)
    assert found.loss == pytest.approx(math.log(VOCAB), rel=1e-12)


def test_special_tokens_count_in_no_sum(rows: np.ndarray) -> None:
    found = bits_per_byte(Bigram(1.0), Fixed(rows, 8, 4), LENGTHS, Alone())
    targets = rows[:, 1:]
    assert found.tokens == (targets != 0).sum() < targets.size
    assert found.bytes == LENGTHS.numpy()[targets].sum()
    assert found.nats == pytest.approx(
        sum(float(Bigram(1.0).nats[a, b]) for row in rows for a, b in itertools.pairwise(row) if b != 0)
    )


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_batch_size_changes_neither_the_number_nor_the_set(rows: np.ndarray, batch: int) -> None:
    one = bits_per_byte(Bigram(1.0), Fixed(rows, 8, 4), LENGTHS, Alone())
    other = bits_per_byte(Bigram(1.0), Fixed(rows, 8, batch), LENGTHS, Alone())
    assert (other.bytes, other.tokens, other.set_hash) == (one.bytes, one.tokens, one.set_hash)
    assert other.nats == pytest.approx(one.nats, rel=1e-12)


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_share_the_rows_and_all_learn_the_same_number(rows: np.ndarray, size: int) -> None:
    alone = bits_per_byte(Bigram(1.0), Fixed(rows, 8, 4), LENGTHS, Alone())
    world, found = Together(size), {}

    def rank(index: int) -> None:
        found[index] = bits_per_byte(Bigram(1.0), Fixed(rows, 8, 2, index, size), LENGTHS, world)

    threads = [threading.Thread(target=rank, args=(index,)) for index in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({result.set_hash for result in found.values()} | {alone.set_hash}) == 1
    assert len({result.nats for result in found.values()}) == 1
    assert found[0].bpb == pytest.approx(alone.bpb, rel=1e-12)


def test_another_set_of_rows_has_another_hash(rows: np.ndarray) -> None:
    def set_hash(chosen: np.ndarray, steps: int | None = None) -> str:
        return bits_per_byte(Bigram(1.0), Fixed(chosen, 8, 4), LENGTHS, Alone(), steps).set_hash

    assert set_hash(rows[::-1]) == set_hash(rows)
    assert set_hash(rows[1:]) != set_hash(rows)
    assert set_hash(rows, steps=2) == set_hash(rows[:16])


def test_an_empty_set_is_not_a_number() -> None:
    found = bits_per_byte(Bigram(1.0), Fixed(np.zeros((0, 9), np.int64), 8, 4), LENGTHS, Alone())
    assert math.isnan(found.bpb)
    assert math.isnan(found.loss)
