"""The same bytes whatever the workers, stops and restarts; a folder is for one plan only; nothing half looks whole."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.campaigns.crash import in_the_making, tree
from tests.reference import shard_reader
from tests.unit.shards.conftest import texts, write_jsonl

from picollm.corpus.source import open_source
from picollm.errors import (
    BusyError,
    CheckError,
    DiskFullError,
    MissingError,
    SourceChangedError,
    TokenizerMismatch,
    UsageError,
)
from picollm.runtime import durable
from picollm.shards import build as building
from picollm.shards.build import build
from picollm.shards.plan import default_shard_tokens, dtype_for
from picollm.tok.tokenizer import Tokenizer
from picollm.tok.train import train_on_texts


@pytest.mark.row("S13")
def test_workers_do_not_show_in_the_bytes(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    trees = []
    for workers in (1, 2, 3, 4, 7):
        out = tmp_path / str(workers)
        build(open_source(str(corpus)), tokenizer, out, shard_tokens=700, val_ppm=50_000, workers=workers)
        trees.append(tree(out))
        assert not in_the_making(out)
    assert all(other == trees[0] for other in trees)
    assert len(trees[0]) > 30


def test_a_second_run_changes_nothing(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    build(open_source(str(corpus)), tokenizer, tmp_path, shard_tokens=700)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.*")}
    build(open_source(str(corpus)), tokenizer, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.*")} == before


def test_fewer_tokens_are_a_prefix_and_more_keep_what_is_there(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    source = open_source(str(corpus))
    whole = build(source, tokenizer, tmp_path / "whole", shard_tokens=700)
    some = build(source, tokenizer, tmp_path / "grown", shard_tokens=700, tokens=2_000, workers=1)
    assert 2_000 <= some.train_tokens < whole.train_tokens
    names = [path.name for path in whole.files("train")]
    assert [path.name for path in some.files("train")] == names[: len(some.files("train"))]
    fewer = build(source, tokenizer, tmp_path / "grown", tokens=500)
    assert fewer.train_tokens < some.train_tokens
    assert build(source, tokenizer, tmp_path / "grown").fingerprint == whole.fingerprint
    assert len(list((tmp_path / "grown" / "manifests").iterdir())) == 3


class Stopped(Exception):
    pass


@pytest.mark.row("S2")
def test_a_stopped_build_goes_on_to_the_same_bytes(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    source = open_source(str(corpus))
    build(source, tokenizer, tmp_path / "unbroken", shard_tokens=700)
    out = tmp_path / "broken"
    build(source, tokenizer, out, shard_tokens=700, tokens=1)

    def stop(counters: Mapping[str, int]) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        build(source, tokenizer, out, progress=stop)
    assert not in_the_making(out)
    build(source, tokenizer, out)
    for name in ("manifest.json", "plan.json"):
        assert (out / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()


@pytest.mark.row("S7")
@pytest.mark.parametrize("name", ["train_000001.bin", "train_000001.docs.npy", "segment_000001.json"])
@pytest.mark.parametrize("how", ["gone", "cut", "longer"])
def test_a_wrong_file_is_made_again(name: str, how: str, corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    source = open_source(str(corpus))
    build(source, tokenizer, tmp_path, shard_tokens=2_000)
    good = tree(tmp_path)
    path = tmp_path / name
    data = path.read_bytes()
    path.unlink()
    if how != "gone":
        path.write_bytes(data[:-1] if how == "cut" else data + b"x")
    build(source, tokenizer, tmp_path)
    assert tree(tmp_path) == good


def test_strangers_in_the_folder_are_left_alone(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "train_999999.bin").write_bytes(b"mine")
    (tmp_path / "notes.txt").write_text("mine")
    made = build(open_source(str(corpus)), tokenizer, tmp_path)
    assert (tmp_path / "train_999999.bin").read_bytes() == b"mine"
    assert made.train_documents + made.val_documents == 400


def test_orphans_of_a_dead_writer_are_removed(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    build(open_source(str(corpus)), tokenizer, tmp_path)
    host = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in os.uname().nodename)
    (tmp_path / ".picollm" / "partial" / f"train_000000.bin.{host}.{2**31 - 1}.abc").write_bytes(b"half")
    build(open_source(str(corpus)), tokenizer, tmp_path)
    assert not in_the_making(tmp_path)


@pytest.mark.row("S6")
def test_a_second_writer_is_told_who_is_at_work(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    source = open_source(str(corpus))
    with durable.lock(tmp_path / ".picollm", "lock"), pytest.raises(BusyError, match=str(os.getpid())):
        build(source, tokenizer, tmp_path)
    build(source, tokenizer, tmp_path)


def test_another_tokenizer_in_the_same_folder_is_refused(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    made = build(open_source(str(corpus)), tokenizer, tmp_path / "x")
    other = train_on_texts(texts(200), 300)
    other.save(tmp_path / "other")
    with pytest.raises(TokenizerMismatch) as caught:
        build(open_source(str(corpus)), tmp_path / "other", tmp_path / "x")
    assert made.tokenizer_sha256 in caught.value.message
    assert other.fingerprint in caught.value.message
    assert "--out" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("option", "says"),
    [({"val_ppm": 7}, "val_ppm"), ({"shard_tokens": 999}, "shard_tokens"), ({"dtype": "uint32"}, "dtype")],
)
def test_another_option_in_the_same_folder_is_refused(
    option: dict[str, int], says: str, corpus: Path, tokenizer: Path, tmp_path: Path
) -> None:
    build(open_source(str(corpus)), tokenizer, tmp_path)
    with pytest.raises(CheckError, match=rf"{says} was .*blake3:[0-9a-f]{{64}}, now blake3:") as caught:
        build(open_source(str(corpus)), tokenizer, tmp_path, **option)  # type: ignore[arg-type]
    assert caught.value.exit_code == 3


def test_other_files_of_a_planned_source_are_refused(tokenizer: Path, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "data" / "x.jsonl", texts(50))
    source = open_source(str(data.parent))
    build(source, tokenizer, tmp_path / "out", shard_tokens=300, tokens=1, workers=1)
    write_jsonl(data.parent / "y.jsonl", texts(5))
    with pytest.raises(SourceChangedError, match=r"y\.jsonl"):
        build(open_source(str(data.parent)), tokenizer, tmp_path / "out")
    (data.parent / "y.jsonl").unlink()
    data.write_bytes(data.read_bytes().replace(b"cat", b"cow"))  # the same size
    with pytest.raises(SourceChangedError, match="sha256"):
        build(open_source(str(data.parent)), tokenizer, tmp_path / "out")
    data.write_bytes(data.read_bytes() + b"\n")
    with pytest.raises(SourceChangedError, match="bytes when it was listed"):
        build(source, tokenizer, tmp_path / "new")


@pytest.mark.parametrize("content", ["", "\n", '{"text": null}\n{"text": ""}\n'])
def test_an_empty_corpus_makes_no_set(content: str, tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(content)
    with pytest.raises(MissingError) as caught:
        build(open_source(str(tmp_path / "x.jsonl")), tokenizer, tmp_path / "out")
    assert caught.value.exit_code == 4
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_disk_that_is_too_small_is_refused_with_both_figures(
    corpus: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "SPARE", 1e12)
    with pytest.raises(DiskFullError, match=r"about .* GB are needed, .* GB are free") as caught:
        build(open_source(str(corpus)), tokenizer, tmp_path)
    assert caught.value.exit_code == 3


def test_65536_ids_fit_and_65537_are_refused_before_any_work() -> None:
    assert dtype_for(65_536, None) == "uint16"
    assert dtype_for(65_537, "uint32") == "uint32"
    with pytest.raises(UsageError, match="65,537 ids; uint16 shards hold 65,536") as caught:
        dtype_for(65_537, None)
    assert "--dtype uint32" in (caught.value.hint or "")


def test_shards_are_sized_by_the_source_and_never_by_the_workers() -> None:
    assert [default_shard_tokens(n) for n in (0, 10**9, 10**10, 10**12)] == [4_000_000, 31_250_000, 10**8, 10**8]


def test_wide_tokens_differ_in_width_only(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    source = open_source(str(corpus))
    sets = [build(source, tokenizer, tmp_path / dtype, dtype=dtype) for dtype in ("uint16", "uint32")]
    narrow, wide = ([s.documents() for s in shard_reader.read_set(made.path)["train"]] for made in sets)
    assert narrow == wide
    assert sets[0].fingerprint != sets[1].fingerprint


@pytest.mark.slow
@settings(max_examples=50)
@given(
    documents=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=1, max_size=30),
    shard_tokens=st.integers(1, 200),
    newline=st.booleans(),
)
def test_cut_anywhere_lines_come_out_as_a_plain_reader_reads_them(
    documents: list[str], shard_tokens: int, newline: bool, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("lines")
    path = write_jsonl(folder / "x.jsonl", documents)
    if not newline:
        path.write_bytes(path.read_bytes()[:-1])
    plain = [json.loads(line)["text"] for line in path.read_text().split("\n") if line]
    if not any(plain):
        return
    made = build(open_source(str(path)), tokenizer, folder / "out", shard_tokens=shard_tokens, val_ppm=0)
    decode = Tokenizer.load(tokenizer).decode
    found = [decode(ids) for shard in shard_reader.read_set(made.path)["train"] for ids in shard.documents()]
    assert found == [text for text in plain if text]
