"""The stream of rows: equal to its plain twin, resumable anywhere, the same for any ranks, threads and buffers."""

import itertools
import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from tests.reference.rows import epoch_rows
from tests.reference.shard_writer import write_set
from tests.unit.loader.toy import BOS, TRAIN, VAL, Rows, T, make_documents, padded, ranks, read


@pytest.mark.parametrize("pack", ["bestfit", "concat"])
@pytest.mark.parametrize("shuffle", ["global", "block:7", "none"])
@pytest.mark.parametrize(("seq_len", "window", "max_docs"), [(32, 64, 16), (7, 300, 2), (200, 1000, 16), (3, 10, 16)])
def test_rows_equal_those_of_the_plain_twin(
    shards: Path, pack: str, shuffle: str, seq_len: int, window: int, max_docs: int
) -> None:
    options = {"seq_len": seq_len, "window": window, "pack": pack, "shuffle": shuffle, "max_docs": max_docs, "seed": 7}
    (stream,) = ranks(shards, 1, epochs=2, **options)
    fingerprint = bytes.fromhex(stream.fingerprints[0])
    expected = [
        padded(tokens, seq_len)
        for epoch in range(2)
        for pieces in epoch_rows(TRAIN, fingerprint=fingerprint, bos=BOS, epoch=epoch, **options)
        if len(tokens := list(itertools.chain.from_iterable(pieces))) > 1
    ]
    np.testing.assert_array_equal(read([stream]), np.stack(expected))


def test_an_epoch_is_every_stored_token_exactly_once(shards: Path) -> None:
    (stream,) = ranks(shards, 1, epochs=1)
    rows = read([stream])
    targets = rows[:, T:]
    pairs = sorted(targets[(targets >= 0) & (targets != BOS)].tolist())
    assert pairs == sorted(itertools.chain.from_iterable(document[1:] for document in TRAIN))
    state = stream.state_dict()
    assert state["stored_tokens"] == stream.tokens == sum(map(len, TRAIN))
    assert state["cursors"] == [{"epoch": 1, "window": 0, "row": 0}]


def test_each_epoch_has_an_order_of_its_own(unbroken: Rows) -> None:
    thirds = len(unbroken) // 3
    assert not np.array_equal(unbroken[:thirds], unbroken[thirds : 2 * thirds])


@pytest.mark.row("L2")
@pytest.mark.parametrize(("n", "batch", "rows_per_step"), [(1, 8, 8), (2, 1, 2), (3, 2, 24), (4, 3, 10), (8, 5, 3)])
def test_ranks_see_the_same_rows_as_one_process(
    shards: Path, unbroken: Rows, n: int, batch: int, rows_per_step: int
) -> None:
    np.testing.assert_array_equal(read(ranks(shards, n, batch_size=batch, rows_per_step=rows_per_step)), unbroken)


def test_a_state_says_what_was_handed_out_not_what_was_read_ahead(shards: Path) -> None:
    few, many = ranks(shards, 1, prefetch=0)[0], ranks(shards, 1, prefetch=30)[0]
    for _ in range(20):
        few.next_step()
        many.next_step()
        assert few.state_dict() == many.state_dict()


def test_a_state_may_be_taken_and_loaded_in_the_middle_of_a_run(shards: Path, unbroken: Rows) -> None:
    (stream,) = ranks(shards, 1, batch_size=2, rows_per_step=6)
    stream.next_step()
    state = stream.state_dict()
    for _ in range(3):
        stream.next_step()
    for _ in range(2):
        stream.load_state_dict(state)
    np.testing.assert_array_equal(read([stream]), unbroken[6:])


def test_all_ranks_have_the_same_short_state(shards: Path) -> None:
    streams = ranks(shards, 3, batch_size=2, rows_per_step=13, seed=2**64 - 1, window=2**31)
    for _ in range(5):
        for stream in streams:
            stream.next_step()
    texts = [json.dumps(stream.state_dict(), separators=(",", ":")) for stream in streams]
    assert len(set(texts)) == 1
    assert len(texts[0]) <= 400


def test_validation_is_read_once_and_in_order(shards: Path) -> None:
    options = {"split": "val", "shuffle": "none", "epochs": 1, "window": 4}
    rows = read(ranks(shards, 1, **options))
    np.testing.assert_array_equal(read(ranks(shards, 2, batch_size=4, rows_per_step=8, **options)), rows)
    targets = rows[:, T:]
    assert ((targets >= 0) & (targets != BOS)).sum() == sum(len(document) - 1 for document in VAL)
    numbers = {document[1]: number for number, document in enumerate(VAL)}
    firsts = [numbers[row[1]] for row in rows if row[1] in numbers]
    assert firsts == sorted(firsts)


@pytest.mark.parametrize(("limit", "documents"), [(1, 1), (len(TRAIN[0]), 1), (len(TRAIN[0]) + 1, 2), (10**9, 300)])
def test_a_limit_keeps_the_shortest_prefix_of_documents_that_reaches_it(
    shards: Path, limit: int, documents: int
) -> None:
    (stream,) = ranks(shards, 1, limit=limit)
    assert (stream.documents, stream.tokens) == (documents, sum(map(len, TRAIN[:documents])))


def test_a_limit_reaches_across_files(shards: Path) -> None:
    before = sum(map(len, TRAIN[:150]))
    (stream,) = ranks(shards, 1, limit=before)
    assert (stream.documents, stream.tokens) == (150, before)


def test_wide_ids_and_files_read_by_pread_give_the_same_rows(shards: Path, tmp_path: Path) -> None:
    wide = write_set(tmp_path, {"train": [TRAIN]}, dtype="uint32", vocab_size=1 << 20)
    options = {"shuffle": "none", "epochs": 1}
    rows = read(ranks(shards, 1, **options))
    np.testing.assert_array_equal(read(ranks(wide, 1, **options)), rows)
    np.testing.assert_array_equal(read(ranks(wide, 1, io="pread", **options)), rows)


@pytest.mark.row("L3")
@pytest.mark.parametrize(("count", "n", "batch"), [(1, 1, 1), (1, 8, 4), (2, 3, 7), (5, 2, 100)])
def test_less_data_than_a_step_wraps_or_ends_and_never_hangs(tmp_path: Path, count: int, n: int, batch: int) -> None:
    tiny = write_set(tmp_path, {"train": [make_documents(count, seed=3, longest=30)]})
    once = read(ranks(tiny, n, batch_size=batch, rows_per_step=n * batch, epochs=1))
    assert 0 < len(once) <= n * batch
    endless = read(ranks(tiny, n, batch_size=batch, rows_per_step=n * batch, epochs=None), steps=2)
    assert len(endless) == 2 * n * batch


def test_a_grown_data_set_still_opens_under_its_older_fingerprint(tmp_path: Path) -> None:
    old = ranks(write_set(tmp_path, {"train": [TRAIN[:50]]}), 1)[0]
    new = ranks(write_set(tmp_path, {"train": [TRAIN[:50], TRAIN[50:]]}), 1)[0]
    assert (old.documents, new.documents) == (50, 300)
    assert ranks(tmp_path, 1, fingerprint=old.fingerprints[0])[0].documents == 50


def test_the_first_rows_do_not_drift(shards: Path) -> None:
    """A change here is a change of the format: it breaks every saved run."""
    (stream,) = ranks(shards, 1)
    assert stream.fingerprints[0] == "453e9c2adddf557e67a8993f5920130331b20df7ee33968c89878c51779314c7"
    digest = sha256(read([stream], steps=1000).astype("<i8").tobytes()).hexdigest()
    assert digest == "69bc8a18bc8d07c9317effc754e317de0d5e5f0d1a154e40b9ee3ea59e39677b"
