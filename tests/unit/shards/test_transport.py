"""A set as one file, as Megatron-LM reads it, and as text again."""

import io
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from tests.campaigns.crash import in_the_making, tree
from tests.reference import shard_reader
from tests.unit.shards.conftest import texts

from picollm.corpus.source import open_source
from picollm.errors import CheckError, PicoError, UsageError
from picollm.shards.build import build
from picollm.shards.export import export_megatron
from picollm.shards.inspect import sample
from picollm.shards.manifest import ShardSet
from picollm.shards.transport import pack, unpack


@pytest.fixture(scope="module")
def made(corpus: Path, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "set"
    build(open_source(str(corpus)), tokenizer, out, shard_tokens=2_000, val_ppm=100_000)
    return out


def test_a_packed_set_comes_out_as_it_went_in(made: Path, tmp_path: Path) -> None:
    shards = pack(made, tmp_path / "set.tar")
    assert unpack(tmp_path / "set.tar", tmp_path / "there").fingerprint == shards.fingerprint
    assert tree(tmp_path / "there") == tree(made)
    assert not in_the_making(tmp_path / "there")
    pack(tmp_path / "there", tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == (tmp_path / "set.tar").read_bytes()
    for deed in (
        lambda: pack(made, tmp_path / "set.tar"),
        lambda: unpack(tmp_path / "set.tar", tmp_path / "there"),
    ):
        with pytest.raises(UsageError, match="already"):
            deed()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_a_damaged_archive_makes_no_set(share: float, how: str, made: Path, tmp_path: Path) -> None:
    pack(made, tmp_path / "set.tar")
    data = bytearray((tmp_path / "set.tar").read_bytes())
    at = int(share * len(data))
    if how == "cut":
        del data[at:]
    else:
        data[at] ^= 1
    (tmp_path / "set.tar").write_bytes(data)
    with pytest.raises(PicoError):
        unpack(tmp_path / "set.tar", tmp_path / "there")
    assert not (tmp_path / "there" / "manifest.json").exists()
    assert not list(tmp_path.glob("there/.picollm/partial/*"))


@pytest.mark.row("S12")
@pytest.mark.parametrize(
    "name", ["../x.bin", "/etc/x", "train_000000.bin/../../x", "train_000000.sh", "manifests/../x.json", ".hidden"]
)
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE])
def test_an_archive_with_any_other_name_or_a_link_is_refused(name: str, kind: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        info = tarfile.TarInfo(name if kind == tarfile.REGTYPE else "train_000000.bin")
        info.type, info.linkname, info.size = kind, name, 1 if kind == tarfile.REGTYPE else 0
        tar.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(CheckError, match="is no file of a shard set"):
        unpack(tmp_path / "x.tar", tmp_path / "a" / "there")
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]


def read_megatron(path: Path, dtype: str) -> list[list[int]]:
    """Megatron-LM's indexed_dataset, re-told: header, lengths, pointers, document bounds; then the .bin by pointer."""
    data = path.read_bytes()
    magic, version, code, sequences, documents = struct.unpack("<9sQBQQ", data[:34])
    assert (magic, version, code) == (b"MMIDIDX\x00\x00", 1, {"uint16": 8, "uint32": 4}[dtype])
    lengths = np.frombuffer(data, "<i4", sequences, 34)
    pointers = np.frombuffer(data, "<i8", sequences, 34 + 4 * sequences)
    bounds = np.frombuffer(data, "<i8", documents, 34 + 12 * sequences)
    assert len(data) == 34 + 12 * sequences + 8 * documents
    assert bounds.tolist() == list(range(sequences + 1))
    tokens = path.with_suffix(".bin").read_bytes()
    return [
        np.frombuffer(tokens, np.dtype(dtype), length, pointer).tolist()
        for length, pointer in zip(lengths.tolist(), pointers.tolist(), strict=True)
    ]


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_megatrons_reader_finds_every_document(dtype: str, corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    build(open_source(str(corpus)), tokenizer, tmp_path, shard_tokens=2_000, val_ppm=100_000, dtype=dtype)
    before = tree(tmp_path)
    blend = export_megatron(tmp_path)
    assert tree(tmp_path).items() >= before.items()
    shards, opened = shard_reader.read_set(tmp_path), ShardSet.open(tmp_path)
    for split, weights in blend.items():
        prefixes = [Path(prefix) for prefix in weights[1::2]]
        assert [int(weight) for weight in weights[::2]] == [file.n_tokens for file in opened.splits[split]]
        for prefix, shard in zip(prefixes, shards[split], strict=True):
            found = read_megatron(prefix.with_suffix(".idx"), dtype)
            assert [ids[1:] for ids in found] == shard.documents()
            assert {ids[0] for ids in found} == {shard.bos}


def test_a_sample_is_text_of_the_corpus_in_order_and_drawn_by_its_seed(made: Path) -> None:
    known = set(texts(400))
    found = list(sample(made, 7, 1))
    assert len(found) == 7
    assert found == sorted(found, key=lambda each: each[:2])
    assert {text for _, _, text in found} <= known
    assert found == list(sample(made, 7, 1)) != list(sample(made, 7, 2))
    documents = ShardSet.open(made).train_documents
    everything = [text for _, _, text in sample(made, 10**6, 0)]
    assert len(set(everything)) == len(everything) == documents
