"""Chat files: read in order, refused with file and line."""

import gzip
import json
from pathlib import Path

import pytest

from picollm.conversation import Conversation
from picollm.errors import CheckError, MissingError, PicoError, SourceError, UsageError
from picollm.loader.chats import read_chats, read_folder

TWO = [Conversation.of("hi", "hello"), Conversation.of("a", "b", "c", "d", system="s")]


def write(path: Path, lines: list[str]) -> Path:
    data = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["chats.jsonl", "chats.jsonl.gz"])
def test_conversations_come_back_in_order(tmp_path: Path, name: str) -> None:
    lines = [json.dumps(TWO[0].to_json()), "", json.dumps(TWO[1].to_json()["messages"])]
    assert list(read_chats(write(tmp_path / name, lines))) == TWO


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: not JSON"),
        ("[" * 100_000, "line 2: not JSON"),
        ('{"text": "x"}', "line 2: W102 plain text"),
        ('[{"role": "user", "content": "x"}, {"role": "user", "content": "x"}]', "line 2: message 1"),
        ("\xff", "line 2: not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = write(tmp_path / "x.jsonl", [json.dumps(TWO[0].to_json()), line])
    with pytest.raises(CheckError, match=said):
        list(read_chats(path))


def test_a_file_that_is_absent_cut_empty_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(b"[]" * 1000)
    cases: list[tuple[str, bytes | None, type[PicoError]]] = [
        ("gone.jsonl", None, MissingError),
        ("cut.jsonl.gz", whole[: len(whole) // 2], SourceError),
        ("empty.jsonl", b"", MissingError),
        ("cut.parquet", b"PAR1", SourceError),
        ("x.txt", b"words", UsageError),
    ]
    for name, data, error in cases:
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(error):
            list(read_chats(tmp_path / name))


def test_every_shared_conversation_is_read(shared: Path) -> None:
    counts = {"identity_conversations": 1000, "oasst_threads": 547, "sgd_dialogues": 2098, "rasbt_instructions": 1100}
    for name, count in counts.items():
        assert sum(1 for _ in read_chats(shared / "data" / "chat_sft" / f"{name}.jsonl.gz")) == count


def test_a_folder_is_read_file_by_file_and_says_what_it_left_out(tmp_path: Path) -> None:
    good = [json.dumps(one.to_json()) for one in TWO]
    write(tmp_path / "b.jsonl", good[:1])
    write(tmp_path / "a.jsonl.gz", good[1:])
    write(tmp_path / "prompts.jsonl", ['{"turns": ["only questions"]}'])
    write(tmp_path / "notes.txt", ["nothing"])
    left: list[str] = []
    assert list(read_folder(tmp_path, left.append)) == [TWO[1], TWO[0]]
    assert len(left) == 1
    assert "prompts.jsonl" in left[0]
    write(tmp_path / "b.jsonl", [*good, "{"])
    with pytest.raises(CheckError, match=r"b\.jsonl, line 3"):
        list(read_folder(tmp_path, left.append))


def test_a_folder_without_conversations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no file of conversations"):
        list(read_folder(tmp_path, lambda _: None))
