"""What other programs rely on: NumPy, llm.c, modded-nanogpt, and the twin that reads with nothing of ours."""

import io
from pathlib import Path

import numpy as np
import pytest
from tests.reference import shard_reader
from tests.unit.shards.conftest import texts, write_jsonl
from xxhash import xxh3_64_intdigest

from picollm.corpus.source import open_source
from picollm.shards.build import build
from picollm.shards.manifest import ShardSet
from picollm.tok.tokenizer import Tokenizer

VAL_PPM = 200_000


@pytest.fixture(scope="module")
def shards(corpus: Path, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    out = tmp_path_factory.mktemp("shards")
    return build(open_source(str(corpus)), tokenizer, out, shard_tokens=2_000, val_ppm=VAL_PPM)


def documents_in_order() -> list[str]:
    """Of the corpus: bytewise order of paths, so `deep/` comes first."""
    return texts(100, 300) + texts(300)


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_twin_finds_every_document_once_in_order_and_on_its_side(
    shards: ShardSet, encode: Tokenizer, split: str
) -> None:
    found = [ids for shard in shard_reader.read_set(shards.path)[split] for ids in shard.documents()]
    wanted = [
        encode.encode(text)
        for text in documents_in_order()
        if (xxh3_64_intdigest(text.encode()) % 1_000_000 < VAL_PPM) == (split == "val")
    ]
    assert found == wanted
    assert len(found) > 50


def test_totals_are_those_of_the_documents(shards: ShardSet) -> None:
    assert shards.train_documents + shards.val_documents == 400
    assert shards.train_bytes + shards.val_bytes == sum(len(text.encode()) for text in documents_in_order())
    assert len(shards.files("train")) > 3


def test_one_line_of_numpy_reads_what_was_encoded(shards: ShardSet, encode: Tokenizer) -> None:
    path = shards.files("train")[0]
    tokens = np.memmap(path, "<u2", "r", offset=1024)
    ends = np.load(path.with_suffix(".docs.npy"), mmap_mode="r")
    first = next(text for text in documents_in_order() if xxh3_64_intdigest(text.encode()) % 1_000_000 >= VAL_PPM)
    assert tokens[ends[0] : ends[1]].tolist() == [encode.bos, *encode.encode(first)]


def test_offsets_are_what_np_save_writes(shards: ShardSet) -> None:
    for path in shards.files("train") + shards.files("val"):
        docs = path.with_suffix(".docs.npy")
        plain = io.BytesIO()
        np.save(plain, np.load(docs))
        assert plain.getvalue() == docs.read_bytes()


def test_llm_c_can_read_every_training_file(shards: ShardSet) -> None:
    for path in shards.files("train"):
        header = np.fromfile(path, "<i4", 256)
        assert (header[0], header[1]) == (20240520, 1)
        assert path.stat().st_size == 256 * 4 + 2 * int(header[2])
        assert path.stat().st_size < 2**31  # it keeps byte offsets in an int


def test_modded_nanogpt_reads_with_one_call_and_finds_documents_by_bos(shards: ShardSet) -> None:
    for path in shards.files("train"):
        header = np.fromfile(path, "<i4", 256)
        assert (header[0], header[1]) == (20240520, 1)
        tokens = np.empty(header[2], "<u2")
        with path.open("rb", buffering=0) as file:
            file.seek(256 * 4)
            assert file.readinto(tokens.data.cast("B")) == 2 * header[2]
        starts = np.load(path.with_suffix(".docs.npy"))[:-1]
        assert np.array_equal(np.flatnonzero(tokens == shards.bos), starts)


def test_a_smaller_share_of_validation_is_part_of_a_larger(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    held_out = []
    for val_ppm in (0, 50_000, 300_000, 1_000_000):
        built = build(open_source(str(corpus)), tokenizer, tmp_path / str(val_ppm), val_ppm=val_ppm)
        held_out.append({tuple(ids) for shard in shard_reader.read_set(built.path)["val"] for ids in shard.documents()})
    assert not held_out[0]
    assert held_out[0] < held_out[1] < held_out[2] < held_out[3]
    assert len(held_out[3]) == 400


@pytest.mark.parametrize(
    ("text", "place"), [("hello", 515_389), ("The quick brown fox", 166_260)], ids=["hello", "fox"]
)
def test_validation_is_chosen_by_the_hash_of_the_text(text: str, place: int, tokenizer: Path, tmp_path: Path) -> None:
    source = open_source(str(write_jsonl(tmp_path / "x.jsonl", [text])))
    assert build(source, tokenizer, tmp_path / "in", val_ppm=place + 1).val_documents == 1
    assert build(source, tokenizer, tmp_path / "out", val_ppm=place).train_documents == 1


def test_an_older_manifest_opens_by_its_fingerprint(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    source = open_source(str(corpus))
    small = build(source, tokenizer, tmp_path / "x", shard_tokens=2_000, tokens=1)
    large = build(source, tokenizer, tmp_path / "x", shard_tokens=2_000)
    assert small.train_tokens < large.train_tokens
    assert ShardSet.open(tmp_path / "x", small.fingerprint).train_tokens == small.train_tokens
    assert ShardSet.open(tmp_path / "x").fingerprint == large.fingerprint
