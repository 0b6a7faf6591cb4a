"""The stream of rows: equal to its plain twin, resumable anywhere, the same for any ranks, threads and buffers."""

import gc
import itertools
import json
import os
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from tests.reference.rows import epoch_rows
from tests.reference.shard_writer import write_set

from picollm.errors import (
    FingerprintMismatch,
    ForkedProcessError,
    LoaderStateError,
    MissingError,
    PicoError,
    ShardCorruptError,
    ShardFormatError,
    TokenizerMismatch,
    UsageError,
)
from picollm.loader.stream import Stream

BOS = 65_527
T = 32
Rows = np.ndarray  # (rows, 2T) int64: inputs, then targets


def make_documents(count: int, seed: int, longest: int = 120) -> list[list[int]]:
    words = iter(np.frombuffer(blake3(bytes([seed])).digest(length=4 * count * (longest + 1)), "<u4").tolist())
    return [[BOS, *(next(words) % BOS for _ in range(1 + next(words) % longest))] for _ in range(count)]


TRAIN = make_documents(300, seed=1)
VAL = make_documents(40, seed=2)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    return write_set(folder, {"train": [TRAIN[:100], TRAIN[100:101], TRAIN[101:]], "val": [VAL]})


def ranks(shards: Path, n: int, **options: Any) -> list[Stream]:
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


@pytest.fixture(scope="module")
def unbroken(shards: Path) -> Rows:
    return read(ranks(shards, 1))


@pytest.mark.parametrize("pack", ["bestfit", "concat"])
@pytest.mark.parametrize("shuffle", ["global", "none"])
@pytest.mark.parametrize(("seq_len", "window", "max_docs"), [(32, 64, 16), (7, 300, 2), (200, 1000, 16), (3, 10, 16)])
def test_rows_equal_those_of_the_plain_twin(
    shards: Path, pack: str, shuffle: str, seq_len: int, window: int, max_docs: int
) -> None:
    options = {"seq_len": seq_len, "window": window, "pack": pack, "shuffle": shuffle, "max_docs": max_docs, "seed": 7}
    (stream,) = ranks(shards, 1, epochs=2, **options)
    fingerprint = bytes.fromhex(stream.fingerprint)
    expected = [
        padded(tokens, seq_len)
        for epoch in range(2)
        for tokens in epoch_rows(TRAIN, fingerprint=fingerprint, bos=BOS, epoch=epoch, **options)
        if len(tokens) > 1
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


@pytest.mark.row("L1")
@pytest.mark.slow
def test_any_state_continues_the_exact_stream_under_other_ranks_threads_and_buffers(
    shards: Path, unbroken: Rows
) -> None:
    changes = itertools.cycle(
        {"n": n, "batch_size": b, "rows_per_step": g, "threads": threads, "prefetch": prefetch, "io": io}
        for n, b, g, threads, prefetch, io in [
            (1, 16, 16, 1, 0, "mmap"),
            (2, 8, 30, 3, 1, "pread"),
            (3, 4, 12, 2, 8, "mmap"),
            (1, 50, 50, 4, 1, "pread"),
        ]
    )
    (stream,) = ranks(shards, 1)
    for index in range(len(unbroken)):
        state = stream.state_dict()
        resumed = ranks(shards, **next(changes))
        for other in resumed:
            other.load_state_dict(state)
            assert other.state_dict() == state
        np.testing.assert_array_equal(read(resumed), unbroken[index:], err_msg=f"after {index} rows")
        stream.next_step()
    with pytest.raises(StopIteration):
        stream.next_step()


@pytest.mark.row("L1")
@pytest.mark.slow
def test_a_fresh_process_continues_the_exact_stream(shards: Path, unbroken: Rows, tmp_path: Path) -> None:
    (stream,) = ranks(shards, 1, batch_size=3, rows_per_step=3)
    for _ in range(17):
        stream.next_step()
    script = (
        "import json, sys, numpy as np\n"
        "from tests.unit.loader.test_stream import ranks, read\n"
        "streams = ranks(sys.argv[1], 2, batch_size=2, rows_per_step=9, threads=3)\n"
        "[stream.load_state_dict(json.loads(sys.argv[2])) for stream in streams]\n"
        "np.save(sys.argv[3], read(streams))\n"
    )
    rest = tmp_path / "rest.npy"
    command = [sys.executable, "-c", script, str(shards), json.dumps(stream.state_dict()), str(rest)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    np.testing.assert_array_equal(np.load(rest), unbroken[51:])


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


@pytest.mark.row("L4")
@pytest.mark.parametrize(
    ("option", "value", "field"),
    [("seed", 1, "seed"), ("seq_len", 16, "seq_len"), ("window", 65, "window"), ("pack", "concat", "pack"),
     ("max_docs", 3, "max_docs"), ("shuffle", "none", "shuffle"), ("split", "val", "split"), ("limit", 500, "limit")],
)  # fmt: skip
def test_a_state_of_another_order_is_refused(shards: Path, option: str, value: Any, field: str) -> None:
    state = ranks(shards, 1)[0].state_dict()
    other = ranks(shards, 1, **{option: value})[0]
    with pytest.raises(LoaderStateError, match=f"loader state: {field} is .* here and .* in the state") as caught:
        other.load_state_dict(state)
    assert "--reset-data-order" in (caught.value.hint or "")


@pytest.mark.row("L4")
def test_a_state_of_another_data_set_is_refused_with_both_fingerprints(shards: Path, tmp_path: Path) -> None:
    (other,) = ranks(write_set(tmp_path, {"train": [TRAIN[1:]]}), 1)
    with pytest.raises(LoaderStateError, match=f"{other.fingerprint} here and {ranks(shards, 1)[0].fingerprint}"):
        other.load_state_dict(ranks(shards, 1)[0].state_dict())


@pytest.mark.parametrize(
    "change",
    [{"v": 2}, {"v": None}, {"extra": 1}, {"cursors": []}, {"cursors": [{"epoch": 0, "window": 5, "row": 0}]},
     {"cursors": [{"epoch": 0, "window": 0, "row": 10**6}]}, {"cursors": [{"epoch": 2**63, "window": 0, "row": 0}]},
     {"rows": -1}, {"seed": "1337"}],
)  # fmt: skip
def test_a_damaged_or_later_state_is_refused(shards: Path, change: dict[str, Any]) -> None:
    (stream,) = ranks(shards, 1)
    with pytest.raises(LoaderStateError):
        stream.load_state_dict(stream.state_dict() | change)
    assert len(read([stream], steps=2)) == 2  # and the stream still works


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


@pytest.mark.row("L3")
def test_no_documents_is_an_error(shards: Path, tmp_path: Path) -> None:
    empty = write_set(tmp_path, {"train": [TRAIN]})
    with pytest.raises(MissingError, match='no documents in split "val"'):
        ranks(empty, 1, split="val")
    with pytest.raises(UsageError, match="there are: train, val"):
        ranks(empty, 1, split="test")
    with pytest.raises(MissingError, match=r"manifest\.json: no such file"):
        ranks(tmp_path / "nowhere", 1)


@pytest.mark.parametrize(
    "options",
    [{"seq_len": 0}, {"batch_size": 0}, {"rows_per_step": 0}, {"window": 0}, {"pack": "crop"}, {"io": "magic"},
     {"shuffle": "block:4"}, {"max_docs": 0}, {"rank": 1}],
)  # fmt: skip
def test_impossible_options_are_usage_errors(shards: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Stream(shards, **{"seq_len": T, "batch_size": 1, "rows_per_step": 1} | options)


def test_the_wanted_tokenizer_and_data_set_are_insisted_on(shards: Path) -> None:
    (stream,) = ranks(shards, 1)
    ranks(shards, 1, fingerprint=stream.fingerprint)
    with pytest.raises(FingerprintMismatch, match=stream.fingerprint):
        ranks(shards, 1, fingerprint="ab" * 32)
    with pytest.raises(TokenizerMismatch, match="ab" * 32):
        ranks(shards, 1, tokenizer="ab" * 32)


def test_a_grown_data_set_still_opens_under_its_older_fingerprint(tmp_path: Path) -> None:
    old = ranks(write_set(tmp_path, {"train": [TRAIN[:50]]}), 1)[0]
    new = ranks(write_set(tmp_path, {"train": [TRAIN[:50], TRAIN[50:]]}), 1)[0]
    assert (old.documents, new.documents) == (50, 300)
    assert ranks(tmp_path, 1, fingerprint=old.fingerprint)[0].documents == 50


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "at", "error"),
    [("tokenizer.json", 0, TokenizerMismatch), ("train_000001.bin", 40, ShardFormatError),
     ("train_000001.docs.npy", 130, ShardFormatError), ("manifest.json", 3, PicoError)],
)  # fmt: skip
def test_a_changed_file_is_refused_by_name(tmp_path: Path, name: str, at: int, error: type[PicoError]) -> None:
    folder = write_set(tmp_path, {"train": [TRAIN[:3], TRAIN[3:6]]})
    flip(folder / name, at)
    with pytest.raises(error, match=name):
        ranks(folder, 1)


def test_files_that_do_not_belong_to_the_manifest_are_refused(shards: Path, tmp_path: Path) -> None:
    folder = write_set(tmp_path, {"train": [TRAIN[:3], TRAIN[3:6]]})
    for suffix in (".bin", ".docs.npy"):
        (folder / f"train_000000{suffix}").write_bytes((folder / f"train_000001{suffix}").read_bytes())
    with pytest.raises(ShardCorruptError, match="the manifest says"):
        ranks(folder, 1)
    (folder / "train_000001.bin").write_bytes(b"short")
    with pytest.raises(PicoError):
        ranks(folder, 1)


@pytest.mark.row("L5")
def test_a_shard_cut_while_it_is_read_is_a_typed_error_by_pread(tmp_path: Path) -> None:
    folder = write_set(tmp_path, {"train": [TRAIN]})
    (stream,) = ranks(folder, 1, io="pread", epochs=None)
    stream.next_step()
    os.truncate(folder / "train_000000.bin", 2000)
    with pytest.raises(ShardCorruptError, match=r"train_000000\.bin: .* past the end"):
        read([stream], steps=1000)
    with pytest.raises(UsageError, match="closed"):
        stream.next_step()


@pytest.mark.row("S9")
def test_an_id_outside_the_vocabulary_never_reaches_the_model(tmp_path: Path) -> None:
    folder = write_set(tmp_path, {"train": [[[9, 3, 4, 5]]]}, vocab_size=10, bos=9)
    path = folder / "train_000000.bin"
    path.write_bytes(path.read_bytes()[:-2] + b"\x0a\x00")
    with pytest.raises(ShardCorruptError, match="id 10 after token 0; the vocabulary has 10 ids"):
        ranks(folder, 1)[0].next_step()


def test_a_closed_stream_says_so(shards: Path) -> None:
    with ranks(shards, 1)[0] as stream:
        stream.next_step()
    stream.close()
    with pytest.raises(UsageError, match="closed"):
        stream.next_step()


def test_no_thread_outlives_its_stream(shards: Path) -> None:
    def threads() -> set[str]:
        return set(os.listdir("/proc/self/task"))

    gc.collect()  # streams that the tests before left in tracebacks
    before = threads()
    streams = ranks(shards, 3, threads=2, epochs=None)
    for stream in streams:
        stream.next_step()
    assert len(threads() - before) == 9
    streams[0].close()
    streams[1].next_step()
    del streams, stream
    deadline = time.monotonic() + 5  # the kernel unlists a joined thread a moment later
    while threads() - before and time.monotonic() < deadline:
        pass
    assert not threads() - before


@pytest.mark.row("L8")
@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_opening_and_closing_leaves_no_file_open(shards: Path, io: str) -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        read(ranks(shards, 1, io=io), steps=1)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_is_refused_and_ends(shards: Path) -> None:
    (stream,) = ranks(shards, 1)
    stream.next_step()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            stream.next_step()
        except ForkedProcessError:
            stream._forked = False
            try:
                stream._core.next()  # the core does not rely on the mark
            except ForkedProcessError:
                del stream  # nor does letting it go wait for threads that are not there
                code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    stream.next_step()


def test_the_first_rows_do_not_drift(shards: Path) -> None:
    """A change here is a change of the format: it breaks every saved run."""
    (stream,) = ranks(shards, 1)
    assert stream.fingerprint == "453e9c2adddf557e67a8993f5920130331b20df7ee33968c89878c51779314c7"
    digest = sha256(read([stream], steps=1000).astype("<i8").tobytes()).hexdigest()
    assert digest == "69bc8a18bc8d07c9317effc754e317de0d5e5f0d1a154e40b9ee3ea59e39677b"
