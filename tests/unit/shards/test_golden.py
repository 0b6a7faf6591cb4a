"""The committed set: still readable, and still what the same text becomes."""

import json
import shutil
from pathlib import Path

from tests.campaigns.crash import tree
from tests.reference import shard_reader

from picollm.corpus.source import open_source
from picollm.shards.build import build
from picollm.shards.inspect import verify
from picollm.tok.tokenizer import Tokenizer

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "shards"


def test_the_golden_set_is_whole_and_says_what_its_text_says() -> None:
    assert not verify(GOLDEN / "set").faults
    decode = Tokenizer.load(GOLDEN / "set").decode
    shards = shard_reader.read_set(GOLDEN / "set")
    found = [decode(ids) for split in shards.values() for shard in split for ids in shard.documents()]
    rows = (json.loads(line) for line in (GOLDEN / "text.jsonl").read_text().split("\n") if line)
    assert sorted(found) == sorted(row["text"] for row in rows if row["text"])
    assert all(len(files) > 1 for files in shards.values())


def test_the_same_text_becomes_the_same_bytes(tmp_path: Path) -> None:
    source = shutil.copy(GOLDEN / "text.jsonl", tmp_path)
    build(open_source(str(source)), GOLDEN / "tokenizer", tmp_path / "set", shard_tokens=400, val_ppm=150_000)
    assert tree(tmp_path / "set") == tree(GOLDEN / "set")
