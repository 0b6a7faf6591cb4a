"""The first rows of a corpus, without the rest: a few ranged requests where it is on the Hub."""

import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import HfFileSystem

from picollm.corpus import local
from picollm.corpus.hub import Hub
from picollm.corpus.source import Source, SourceFile, centibytes_of, sniff
from picollm.errors import SourceError

ROWS = 256
BLOCK_BYTES = 1 << 20  # of one request
JSONL_BYTES = 4 << 20  # of a file of lines, at most
TEXT_COLUMNS = ("text", "content", "raw_content", "document", "body")  # as the reader chooses, best first
CHAT_COLUMNS = ("messages", "conversations", "conversation")
TURN_KEYS = ({"role", "content"}, {"from", "value"})
# What a column of running text does not look like (W103).
SHORT_CHARACTERS = 64
ADDRESSES, EMPTY = 0.9, 0.01


@dataclass(frozen=True)
class Head:
    """`columns`: name → type in words. `rows`: the first ones, as JSON-like values. `permille`: of a thousand bytes of
    the file, those of each column before compression."""

    path: str
    columns: Mapping[str, str]
    rows: Sequence[Mapping[str, Any]]
    table: pa.Table | None = None
    permille: Mapping[str, int] = field(default_factory=dict)

    def chat_column(self) -> str | None:
        """The column of lists of turns, if there is one."""
        for row in self.rows:
            for name, value in row.items():
                if isinstance(value, list) and value and isinstance(value[0], Mapping):
                    keys = set(value[0])
                    if any(turn <= keys for turn in TURN_KEYS):
                        return name
        return None


def head(source: Source, rows: int = ROWS) -> Head:
    """The first rows of the first file that has any. Raises SourceError, and what a Hub out of reach raises."""
    for file in source.files:
        found = head_of(source, file, rows)
        if found.rows:
            return found
    return Head(source.files[0].path, {}, ())


def head_of(source: Source, file: SourceFile, rows: int) -> Head:
    kind = local.extension(file.path)
    try:
        with opened(source, file) as stream:
            if kind == "parquet":
                return of_parquet(stream, file, rows)
            if kind in local.ROWS:
                return of_lines(stream, file.path, rows)
            text = decompressed(stream, file.path).read(JSONL_BYTES).decode("utf-8", "replace")
            return Head(file.path, {"text": "string"}, [{"text": text}] if text else [])
    except (pa.ArrowException, EOFError) as error:
        raise SourceError(f"{file.path}: cannot be read: {error!s:.300}") from error


@contextmanager
def opened(source: Source, file: SourceFile) -> Iterator[BinaryIO]:
    """A file for reading from anywhere in it: here, or where the source has it from."""
    if source.remote is None or (source.root / file.path).is_file():
        with (source.root / file.path).open("rb") as stream:
            yield stream
        return
    origin, hub = dict(source.origin), Hub.connect()
    system = HfFileSystem(endpoint=hub.endpoint, skip_instance_cache=True)
    address = f"datasets/{origin['repo']}@{origin['revision']}/{file.path}"
    stream = hub.ask(lambda: system.open(address, "rb", block_size=BLOCK_BYTES, size=file.size), origin["repo"])
    with stream:
        yield cast("BinaryIO", stream)


def of_parquet(stream: BinaryIO, about: SourceFile, rows: int) -> Head:
    file = pq.ParquetFile(stream, buffer_size=BLOCK_BYTES, pre_buffer=False)
    columns = {field.name: str(field.type) for field in file.schema_arrow}
    batch = next(file.iter_batches(batch_size=rows), None)
    if batch is None:
        return Head(about.path, columns, ())
    held: dict[str, int] = {}
    for group in map(file.metadata.row_group, range(file.metadata.num_row_groups)):
        for chunk in map(group.column, range(group.num_columns)):
            held[chunk.path_in_schema] = held.get(chunk.path_in_schema, 0) + chunk.total_uncompressed_size
    permille = {name: size * 1000 // max(1, about.size) for name, size in held.items()}
    table = pa.Table.from_batches([batch])
    return Head(about.path, columns, table.to_pylist(), table, permille)


def decompressed(stream: BinaryIO, path: str) -> BinaryIO:
    coding = {".gz": "gzip", ".zst": "zstd"}.get(Path(path).suffix)
    return cast("BinaryIO", pa.CompressedInputStream(stream, coding)) if coding else stream


def of_lines(stream: BinaryIO, path: str, rows: int) -> Head:
    data = decompressed(stream, path).read(JSONL_BYTES)
    lines = data.splitlines() if len(data) < JSONL_BYTES else data[: data.rfind(b"\n") + 1].splitlines()
    found = []
    for number, line in enumerate(lines[:rows], 1):
        if line.strip():
            try:
                found.append(json.loads(line))
            except ValueError as error:
                raise SourceError(f"{path}, line {number}: not JSON: {error}") from error
    found = [row if isinstance(row, dict) else {"": row} for row in found]
    names: dict[str, str] = {}
    for row in found:
        for name, value in row.items():
            if value is not None or name not in names:
                names[name] = type_in_words(value)
    return Head(path, names, found)


def type_in_words(value: object) -> str:
    words = {str: "string", bool: "bool", int: "number", float: "number", list: "list", dict: "struct"}
    return words.get(type(value), "null")


def settle_column(source: Source) -> Source:
    """The source with its text column chosen and looked at, before anything large is fetched.

    Raises TextColumnError with the columns there are.
    """
    found = head(source)
    if not found.rows:
        return source
    with tempfile.TemporaryDirectory() as folder:
        name = "head.parquet" if found.table is not None else "head.jsonl"
        path = Path(folder, name)
        if found.table is not None:
            pq.write_table(found.table, path)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in found.rows))
        look = sniff(Path(folder), [SourceFile(name, path.stat().st_size)], source.read)
    column = str(look["text_column"])
    return replace(
        source,
        read=replace(source.read, text_column=look["text_column"]),
        warnings=(*source.warnings, *(metadata_doubts(column, found.rows) or look["warnings"])),
        centibytes=source.centibytes or centibytes_of(source.files, found.permille.get(column)),
    )


def is_turns(value: object) -> bool:
    """Whether a value is a list of messages."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) and any(keys <= turn.keys() for keys in TURN_KEYS) for turn in value)
    )


def metadata_doubts(column: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """W103, where a column looks like metadata, is often empty or holds turns."""
    texts = [row.get(column) for row in rows]
    if texts and all(is_turns(text) for text in texts):
        return [f'W103 column "{column}" holds turns, not text: picollm data peek --rendered, picollm sft']
    held = [text for text in texts if isinstance(text, str) and text]
    if not texts or any(text and not isinstance(text, str) for text in texts):
        return []  # numbers and the like: the reader refuses them by type
    empty = 1 - len(held) / len(texts)
    if empty > EMPTY:
        share = f"{empty:.0%}"
        return [f'W103 column "{column}" is empty in {share} of the first {len(texts)} rows']
    median = int(statistics.median(map(len, held)))
    addresses = sum(text.startswith("http") for text in held) / len(held)
    if addresses > ADDRESSES or median < SHORT_CHARACTERS:
        what = f"median {median} chars, {addresses:.0%} start with http"
        return [f'W103 column "{column}" looks like metadata ({what})']
    return []
