"""Describing and verifying a set, and refusing to open what is not one."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from picollm.corpus.source import open_source
from picollm.errors import (
    FingerprintMismatch,
    MissingError,
    ShardCorruptError,
    ShardFormatError,
    TokenizerMismatch,
)
from picollm.shards.build import build
from picollm.shards.inspect import info, verify
from picollm.shards.manifest import ShardSet


@pytest.fixture(scope="module")
def made(corpus: Path, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    out = tmp_path_factory.mktemp("shards")
    return build(open_source(str(corpus)), tokenizer, out, shard_tokens=2_000, val_ppm=50_000)


@pytest.fixture
def copy(made: ShardSet, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    folder = tmp_path / "copy"
    shutil.copytree(made.path, folder)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o644)
    return folder


def test_a_whole_set_verifies(made: ShardSet) -> None:
    found = verify(made.path)
    assert not found.faults
    assert (found.files, found.tokens) == (
        len(made.files("train") + made.files("val")),
        made.train_tokens + made.val_tokens,
    )
    assert found.plain()["schema"] == "picollm.shard-verify/1"


@pytest.mark.row("S7")
@pytest.mark.parametrize("at", [1024, 1500, -1])
@pytest.mark.parametrize("suffix", [".bin", ".docs.npy"])
def test_a_changed_byte_is_found_and_its_file_named(at: int, suffix: str, copy: Path) -> None:
    path = copy / f"train_000001{suffix}"
    data = bytearray(path.read_bytes())
    data[at if at < len(data) else -2] ^= 4
    path.write_bytes(data)
    faults = verify(copy).faults
    assert len(faults) == 1
    assert path.name in faults[0]


@pytest.mark.row("S7")
def test_two_shards_that_changed_places_are_found(copy: Path) -> None:
    one, other = (copy / f"train_{index:06}" for index in (0, 1))
    for suffix in (".bin", ".docs.npy"):
        first, second = (Path(f"{path}{suffix}") for path in (one, other))
        held = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(held)
    with pytest.raises(ShardCorruptError, match="the manifest says"):
        verify(copy)


def test_info_counts_what_is_there(made: ShardSet) -> None:
    facts = info(made.path)
    assert facts["schema"] == "picollm.shard-info/1"
    assert facts["fingerprint"] == made.fingerprint
    lengths = np.concatenate([np.diff(np.load(path.with_suffix(".docs.npy"))) for path in made.files("train")])
    assert facts["splits"]["train"]["lengths"]["p100"] == lengths.max()
    assert facts["splits"]["train"]["n_docs"] == len(lengths)


def test_a_folder_without_a_manifest_is_no_set(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no shard set") as caught:
        ShardSet.open(tmp_path)
    assert caught.value.hint == "picollm shard SOURCE"


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", ShardFormatError),
        (b"[]", ShardFormatError),
        (b"{}", ShardFormatError),
        (b"[" * 100_000, ShardFormatError),
        (b'{"format":"picollm-shards/2"}', ShardFormatError),
    ],
)
def test_what_is_no_manifest_is_refused(data: bytes, error: type[Exception], copy: Path) -> None:
    (copy / "manifest.json").write_bytes(data)
    with pytest.raises(error):
        ShardSet.open(copy)


def test_a_changed_manifest_does_not_match_its_fingerprint(copy: Path) -> None:
    path = copy / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"utf8_bytes":', b'"utf8_bytes":1', 1))
    with pytest.raises(ShardCorruptError, match="fingerprint"):
        ShardSet.open(copy)


def test_another_tokenizer_file_is_refused_with_both_hashes(copy: Path) -> None:
    path = copy / "tokenizer.json"
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(TokenizerMismatch, match=r"is [0-9a-f]{64}, the shards were made with [0-9a-f]{64}"):
        ShardSet.open(copy)


def test_missing_and_cut_files_are_named(copy: Path) -> None:
    path = copy / "train_000001.bin"
    data = path.read_bytes()
    path.write_bytes(data[:-2])
    with pytest.raises(ShardCorruptError, match=r"train_000001\.bin"):
        ShardSet.open(copy)
    path.unlink()
    with pytest.raises(MissingError, match=r"train_000001\.bin"):
        ShardSet.open(copy)


def test_an_unknown_fingerprint_is_refused(copy: Path) -> None:
    with pytest.raises(MissingError):
        ShardSet.open(copy, "0" * 64)
    manifest = next((copy / "manifests").iterdir())
    with pytest.raises(FingerprintMismatch):
        ShardSet.open(copy, manifest.stem + "0" * 48)
