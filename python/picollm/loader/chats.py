"""Files of conversations: JSON lines, plain or gzip, each `{"messages": […]}` or a bare list of messages; parquet with
a column of such lists."""

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from picollm.conversation import Conversation
from picollm.errors import CheckError, MissingError, SourceError, UsageError

KINDS = ("jsonl", "ndjson", "json")
CHAT_COLUMNS = ("messages", "conversations", "conversation")  # as `picollm data` looks for them
SPEAKERS = {"human": "user", "gpt": "assistant"}
SHARD = "picollm shard"
LONGEST_LINE = 16 << 20  # bytes; a longer line is not a conversation


def read_chats(path: Path) -> Iterator[Conversation]:
    """The conversations of a file, in order. Raises CheckError with file and line on the first bad one."""
    if not path.is_file():
        raise MissingError(f"{path}: no such file", hint="give a .jsonl or .jsonl.gz file, or smalltalk")
    if path.suffix == ".parquet":
        yield from read_parquet(path)
        return
    if path.name.removesuffix(".gz").rpartition(".")[2] not in KINDS:
        raise UsageError(
            f"{path}: not a .jsonl or .jsonl.gz file", hint=f"plain text belongs into shards: {SHARD} {path}"
        )
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from read_lines(file, path)
    except (OSError, EOFError) as error:
        raise SourceError(f"{path}: cannot be read: {error}", hint="the file is damaged or cut short") from error


def read_parquet(path: Path) -> Iterator[Conversation]:
    """The conversations of a parquet file's column of turns, by row. Raises as `read_chats`."""
    try:
        file = pq.ParquetFile(path)
        column = next((name for name in CHAT_COLUMNS if name in file.schema_arrow.names), None)
        if column is None:
            raise UsageError(
                f"{path}: no column {' or '.join(CHAT_COLUMNS)} but {', '.join(file.schema_arrow.names)}",
                hint=f"plain text belongs into shards: {SHARD} {path}",
            )
        number = 0
        for batch in file.iter_batches(columns=[column]):
            for turns in batch.column(0).to_pylist():
                number += 1
                try:
                    yield Conversation.from_json([named(turn) for turn in turns or ()])
                except CheckError as error:
                    raise CheckError(f"{path}, row {number}: {error.message}", hint=error.hint) from None
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{path}: cannot be read: {error}", hint="the file is damaged or cut short") from error


def named(turn: object) -> object:
    """A turn in our words: others say `from` and `value`, and call the two `human` and `gpt`."""
    if isinstance(turn, dict) and {"from", "value"} <= turn.keys():
        return {"role": SPEAKERS.get(turn["from"], turn["from"]), "content": turn["value"]}
    return turn


def read_folder(folder: Path, left_out: Callable[[str], None]) -> Iterator[Conversation]:
    """The conversations of every file in a folder, in the order of names.

    `left_out` hears of files whose first line is no conversation, such as prompts without answers. A bad line further
    down is an error as in `read_chats`. Raises MissingError where no file holds a conversation.
    """
    lines = [path for kind in KINDS for ending in ("", ".gz") for path in folder.glob(f"*.{kind}{ending}")]
    files = sorted([*lines, *folder.glob("*.parquet")])
    found = False
    for path in files:
        chats = read_chats(path)
        try:
            first = next(chats)
        except StopIteration:
            left_out(f"{path}: no conversations in it")
            continue
        except (CheckError, MissingError) as error:
            left_out(error.message)
            continue
        found = True
        yield first
        yield from chats
    if not found:
        raise MissingError(f"{folder}: no file of conversations in it", hint="give .jsonl or .jsonl.gz files")


def read_lines(file: BinaryIO | gzip.GzipFile, path: Path) -> Iterator[Conversation]:
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise CheckError(f"{path}, line {number}: longer than {LONGEST_LINE:,} bytes")
        if line.isspace():
            continue
        try:
            value = json.loads(line)
            if isinstance(value, dict) and "messages" not in value and isinstance(value.get("text"), str):
                raise CheckError("W102 plain text, no conversation", hint=f"{SHARD} {path}, then picollm train")
            yield Conversation.from_json(value)
        except (ValueError, RecursionError) as error:
            raise CheckError(f"{path}, line {number}: not JSON: {error!s:.200}") from None
        except CheckError as error:
            raise CheckError(f"{path}, line {number}: {error.message}", hint=error.hint) from None
    if not number:
        raise MissingError(f"{path}: no conversations in it")
