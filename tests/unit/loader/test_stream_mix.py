"""Mixtures: exact shares, one cursor a source, resumable anywhere."""

from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.reference.rows import BLOCK_ROWS, block_sources, mixed_rows, shares
from tests.reference.shard_writer import write_set
from tests.unit.loader.toy import BOS, TRAIN, Rows, T, padded, ranks, read

from picollm.errors import LoaderStateError, TokenizerMismatch, UsageError

SOURCES = [TRAIN[:150], TRAIN[150:180], TRAIN[180:]]
WEIGHTS = [3, 1, 2]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("mixture")
    return [write_set(folder / str(number), {"train": [source]}) for number, source in enumerate(SOURCES)]


def mixed(sets: list[Path], n: int = 1, weights: Sequence[float] = WEIGHTS, **options: Any) -> list[Any]:
    return ranks(sets, n, **{"weights": weights, "epochs": None, "max_docs": 16} | options)


@pytest.fixture(scope="module")
def unbroken(sets: list[Path]) -> Rows:
    return read(mixed(sets, batch_size=50, rows_per_step=50), steps=100)


def test_rows_equal_those_of_the_plain_twin_past_the_end_of_a_block(sets: list[Path], unbroken: Rows) -> None:
    fingerprints = [bytes.fromhex(text) for text in mixed(sets)[0].fingerprints]
    options = {"bos": BOS, "seed": 1337, "seq_len": T, "window": 64, "pack": "bestfit", "shuffle": "global"}
    rows = mixed_rows(SOURCES, WEIGHTS, fingerprints, **options, max_docs=16)
    expected = np.stack([padded(list(chain.from_iterable(pieces))) for pieces in islice(rows, 5000)])
    np.testing.assert_array_equal(unbroken, expected[(expected[:, T:] != -100).any(axis=1)])


def test_every_block_holds_the_shares_exactly(sets: list[Path]) -> None:
    (stream,) = mixed(sets, batch_size=BLOCK_ROWS, rows_per_step=BLOCK_ROWS, weights=[0.7, 0.1, 0.2])
    assert stream.state_dict()["weights"] == [7, 1, 2]
    fingerprints = [bytes.fromhex(text) for text in stream.fingerprints]
    for block in range(2):
        counts = np.bincount(block_sources([7, 1, 2], fingerprints, 1337, block)).tolist()
        assert counts == shares([7, 1, 2]) == [2867, 410, 819]
        stream.next_step()
        assert (stream.state_dict()["block"], stream.state_dict()["in_block"]) == (block + 1, 0)
    stream.close()


@pytest.mark.row("L1")
@pytest.mark.row("L2")
def test_a_mixture_is_resumed_anywhere_under_other_ranks(sets: list[Path], unbroken: Rows) -> None:
    shapes = [(1, 7, 7), (2, 3, 11), (3, 2, 6), (1, 300, 300)]
    (stream,) = mixed(sets, batch_size=1, rows_per_step=1)
    for index in range(4190):
        if index % 97 == 0 or 4090 < index < 4100:
            n, batch_size, rows_per_step = shapes[index % len(shapes)]
            resumed = mixed(sets, n, batch_size=batch_size, rows_per_step=rows_per_step)
            for other in resumed:
                other.load_state_dict(stream.state_dict())
            rows = read(resumed, steps=2)
            np.testing.assert_array_equal(rows, unbroken[index : index + len(rows)], err_msg=f"after {index} rows")
        stream.next_step()
    epochs = [cursor["epoch"] for cursor in stream.state_dict()["cursors"]]
    assert len(set(epochs)) == 3, "each source goes through its epochs by itself"
    stream.close()


def test_new_weights_begin_with_a_block_and_only_when_declared(sets: list[Path]) -> None:
    (old,) = mixed(sets, batch_size=2048, rows_per_step=2048)
    old.next_step()
    (new,) = mixed(sets, weights=[1, 1, 1])
    with pytest.raises(LoaderStateError, match=r"weights is \[1, 1, 1\] here and \[3, 1, 2\], row 2048 of a block in"):
        new.load_state_dict(old.state_dict(), reweigh=True)
    old.next_step()
    with pytest.raises(LoaderStateError, match="weights"):
        new.load_state_dict(old.state_dict())
    new.load_state_dict(old.state_dict(), reweigh=True)
    new.next_step()
    assert (new.state_dict()["block"], new.state_dict()["in_block"]) == (1, 1)
    for stream in (old, new):
        stream.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"weights": [1, 2]}, "2 weights for 3"), ({"weights": [1, 0, 1]}, "above 0"),
     ({"weights": [1, -1, 1]}, "above 0"),
     ({"weights": [1, 1, 1e-5]}, "no row of 4096"), ({"epochs": 1}, "no end"),
     ({"fingerprint": "ab" * 32}, "1 fingerprints for 3")],
)  # fmt: skip
def test_mixtures_that_cannot_be_are_refused(sets: list[Path], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        mixed(sets, **options)


@pytest.mark.row("L4")
def test_sets_of_two_tokenizers_are_not_mixed(sets: list[Path], tmp_path: Path) -> None:
    other = write_set(tmp_path, {"train": [TRAIN]}, tokenizer=b"{ }")
    with pytest.raises(TokenizerMismatch, match="made with tokenizer"):
        mixed([*sets, other], weights=[1, 1, 1, 1])


def test_the_user_is_told_of_coarse_shares_and_of_sets_smaller_than_a_step(sets: list[Path]) -> None:
    (stream,) = mixed(sets, weights=[1000, 2000, 1.25])
    assert len(stream.notes) == 1
    assert "shard set 2 gets 0.049% of the rows, not 0.042%" in stream.notes[0]
    (stream,) = ranks(sets[0], 1, rows_per_step=1000)
    assert "it reads them again" in stream.notes[0]


def test_states_of_wide_and_narrow_sets_mix(sets: list[Path], tmp_path: Path) -> None:
    wide = write_set(tmp_path, {"train": [SOURCES[1]]}, dtype="uint32")
    one, two = (
        read(mixed([sets[0], second], weights=[1, 1], shuffle="none", out=out), steps=300)
        for second, out in ((sets[1], "i32i64"), (wide, "u16"))
    )
    # The order of a block is of the fingerprints, which differ: the same rows, in another order.
    assert one.shape == two.shape
    firsts = [{tuple(row) for row in rows[:100].tolist()} for rows in (one, two)]
    assert len(firsts[0] & firsts[1]) > 50
