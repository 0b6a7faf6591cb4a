"""Parquet as others write it: every text type, codec and page version; damage is named; drift is fine."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.reference import shard_reader
from tests.unit.shards.conftest import texts

from picollm.corpus.source import open_source
from picollm.errors import SourceError, TextColumnError
from picollm.shards.build import build
from picollm.tok.tokenizer import Tokenizer

ROWS = [*texts(300), None, "", " \n", "über", *texts(40, 300)]
DOCUMENTS = [text for text in ROWS if text]
TYPES = {
    "string": pa.string(),
    "large_string": pa.large_string(),
    "string_view": pa.string_view(),
    "binary": pa.binary(),
    "large_binary": pa.large_binary(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
}


def table(kind: pa.DataType) -> pa.Table:
    values = [text.encode() if text is not None and pa.types.is_binary(kind) else text for text in ROWS]
    if pa.types.is_large_binary(kind):
        values = [None if text is None else text.encode() for text in ROWS]
    column = pa.array(values, kind) if not pa.types.is_dictionary(kind) else pa.array(values).dictionary_encode()
    return pa.table({"id": range(len(ROWS)), "text": column, "tags": [["a", "b"]] * len(ROWS)})


def documents(path: Path, tokenizer: Path, out: Path, shard_tokens: int = 1_000) -> list[str]:
    made = build(open_source(str(path)), tokenizer, out, shard_tokens=shard_tokens, val_ppm=0)
    decode = Tokenizer.load(tokenizer).decode
    return [decode(ids) for shard in shard_reader.read_set(made.path)["train"] for ids in shard.documents()]


@pytest.mark.parametrize("kind", TYPES)
def test_every_text_type_is_read(kind: str, tokenizer: Path, tmp_path: Path) -> None:
    pq.write_table(table(TYPES[kind]), tmp_path / "x.parquet", row_group_size=100)
    assert documents(tmp_path / "x.parquet", tokenizer, tmp_path / "out") == DOCUMENTS


@pytest.mark.parametrize("codec", ["snappy", "zstd", "gzip", "lz4", "brotli", "none"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("encoding", ["PLAIN", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"])
def test_every_codec_page_and_encoding_is_read(
    codec: str, version: str, encoding: str, tokenizer: Path, tmp_path: Path
) -> None:
    pq.write_table(
        table(pa.string()).select(["text"]),
        tmp_path / "x.parquet",
        row_group_size=150,
        compression=codec,
        data_page_version=version,
        data_page_size=2_000,
        use_dictionary=False,
        column_encoding=encoding,
    )
    assert documents(tmp_path / "x.parquet", tokenizer, tmp_path / "out") == DOCUMENTS


def test_more_slices_than_row_groups_lose_nothing(tokenizer: Path, tmp_path: Path) -> None:
    pq.write_table(table(pa.string()), tmp_path / "x.parquet", row_group_size=200)
    assert documents(tmp_path / "x.parquet", tokenizer, tmp_path / "out", shard_tokens=50) == DOCUMENTS


@pytest.mark.row("S10")
@pytest.mark.parametrize("keep", [0, 3, 100, -1_000, -1])
def test_a_truncated_file_is_named_and_exit_3(keep: int, tokenizer: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(table(pa.string()), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SourceError, match=r"x\.parquet") as caught:
        documents(path, tokenizer, tmp_path / "out")
    assert caught.value.exit_code == 3


@pytest.mark.row("S10")
def test_a_flipped_byte_in_a_checked_page_names_row_group_and_column(tokenizer: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(
        table(pa.string()).select(["text"]), path, row_group_size=100, write_page_checksum=True, compression="none"
    )
    data = bytearray(path.read_bytes())
    where = data.index(ROWS[250].encode())  # type: ignore[union-attr]
    data[where] ^= 1
    path.write_bytes(data)
    with pytest.raises(SourceError, match="row group 2, column text"):
        documents(path, tokenizer, tmp_path / "out")


@pytest.mark.row("S10")
def test_skipping_a_bad_file_is_counted_and_recorded(tokenizer: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        pq.write_table(table(pa.string()), tmp_path / f"{name}.parquet")
    (tmp_path / "b.parquet").write_bytes((tmp_path / "b.parquet").read_bytes()[:500])
    made = build(open_source(str(tmp_path), on_bad_file="skip"), tokenizer, tmp_path / "out")
    assert made.manifest["skipped"]["bad_files"] == ["b.parquet"]
    assert made.train_documents + made.val_documents == 2 * len(DOCUMENTS)


def test_bad_utf8_names_the_row_or_is_counted(tokenizer: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": pa.array([b"good", b"bad\xff", b"good too"])}), path)
    with pytest.raises(SourceError, match="row group 0, row 1"):
        documents(path, tokenizer, tmp_path / "out")
    for policy, kept in (("skip", 2), ("replace", 3)):
        source = open_source(str(path), bad_utf8=policy)  # type: ignore[arg-type]
        made = build(source, tokenizer, tmp_path / policy, val_ppm=0)
        assert (made.train_documents, made.manifest["skipped"]["bad_utf8"]) == (kept, 1)


def test_a_column_that_is_no_text_is_refused_with_its_type(tokenizer: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(table(pa.string()), path)
    for column, says in (("foo", 'no column "foo"'), ("id", '"id" is int64'), ("tags", '"tags" is list')):
        with pytest.raises(TextColumnError, match=f"{says}.*columns: id .int64., text .string., tags .list."):
            open_source(str(path), text_column=column)


def test_columns_may_come_in_another_order_and_number(tokenizer: Path, tmp_path: Path) -> None:
    pq.write_table(table(pa.string()), tmp_path / "a.parquet")
    pq.write_table(table(pa.string()).select(["text"]), tmp_path / "b.parquet")
    pq.write_table(table(pa.string()).select(["tags", "text", "id"]), tmp_path / "c.parquet")
    assert documents(tmp_path, tokenizer, tmp_path.with_name("columns")) == 3 * DOCUMENTS
