"""The stream refuses what it cannot serve exactly, says what and why, and leaves nothing behind."""

import gc
import os
import time
from pathlib import Path
from typing import Any

import pytest
from tests.reference.shard_writer import write_set
from tests.unit.loader.toy import TRAIN, T, ranks, read

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


@pytest.mark.row("L4")
@pytest.mark.parametrize(
    ("option", "value", "field"),
    [("seed", 1, "seed"), ("seq_len", 16, "seq_len"), ("window", 65, "window"), ("pack", "concat", "pack"),
     ("max_docs", 3, "max_docs"), ("shuffle", "none", "shuffle"),
     ("shuffle", "block:4", "shuffle"), ("split", "val", "split"), ("limit", 500, "limit")],
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
    (stream,) = ranks(shards, 1)
    with pytest.raises(LoaderStateError, match=f"{other.fingerprints[0]} here and {stream.fingerprints[0]}"):
        other.load_state_dict(stream.state_dict())


@pytest.mark.parametrize(
    "change",
    [{"v": 2}, {"v": None}, {"extra": 1}, {"cursors": []}, {"cursors": [{"epoch": 0, "window": 5, "row": 0}]},
     {"cursors": [{"epoch": 0, "window": 0, "row": 10**6}]}, {"cursors": [{"epoch": 2**63, "window": 0, "row": 0}]},
     {"rows": -1}, {"seed": "1337"}, {"block": 1}, {"in_block": 1}],
)  # fmt: skip
def test_a_damaged_or_later_state_is_refused(shards: Path, change: dict[str, Any]) -> None:
    (stream,) = ranks(shards, 1)
    with pytest.raises(LoaderStateError):
        stream.load_state_dict(stream.state_dict() | change)
    assert len(read([stream], steps=2)) == 2  # and the stream still works


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
     {"shuffle": "block:0"}, {"shuffle": "blocks"}, {"max_docs": 0}, {"rank": 1}, {"out": "f64"}, {"verify": "some"}],
)  # fmt: skip
def test_impossible_options_are_usage_errors(shards: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Stream(shards, **{"seq_len": T, "batch_size": 1, "rows_per_step": 1} | options)


def test_the_wanted_tokenizer_and_data_set_are_insisted_on(shards: Path) -> None:
    (stream,) = ranks(shards, 1)
    ranks(shards, 1, fingerprint=stream.fingerprints[0])
    with pytest.raises(FingerprintMismatch, match=stream.fingerprints[0]):
        ranks(shards, 1, fingerprint="ab" * 32)
    with pytest.raises(TokenizerMismatch, match="ab" * 32):
        ranks(shards, 1, tokenizer="ab" * 32)


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


@pytest.mark.row("L8")
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here")
def test_memory_does_not_grow_with_the_batches_read(shards: Path) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    (stream,) = ranks(shards, 1, epochs=None)
    settled, batches = 120_000, 60_000  # the allocator's arenas fill up first: 0.4 MB over a hundred thousand batches
    for number in range(settled + batches):
        if number == settled:
            before = resident()
        stream.next_step()
    assert (resident() - before) / (batches / 1000) < 1024
    stream.close()


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
