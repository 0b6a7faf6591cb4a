"""`picollm data`: what a data set is and what its rows look like, without fetching it."""

import io
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.hub import Hub, Repository
from tests.unit.hub.conftest import REPO, Run, parquet, sentences

from picollm.tok.tokenizer import Tokenizer

CHATS = "HuggingFaceTB/everyday-conversations-llama3.1-2k"
CHAT = [{"role": "user", "content": "hi <|assistant_start|>"}, {"role": "assistant", "content": "Hello!"}]


@pytest.fixture
def chats(hub: Hub) -> Repository:
    """everyday-conversations: two splits by its card."""
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{"messages": CHAT}] * 5), sink)
    splits = [{"split": name, "path": f"data/{name}-*"} for name in ("train_sft", "test_sft")]
    rows = [{"name": "train_sft", "num_examples": 2260}, {"name": "test_sft", "num_examples": 119}]
    card = {"configs": [{"config_name": "default", "data_files": splits}], "dataset_info": {"splits": rows}}
    files = {f"data/{name}-00000-of-00001.parquet": sink.getvalue() for name in ("train_sft", "test_sft")}
    return hub.add(CHATS, files, card=card)


@pytest.mark.row("K1")
def test_info_says_where_what_and_how_much(hub: Hub, edu: Repository, chats: Repository, home: Path, run: Run) -> None:
    code, out, err = run("data", "info", "fineweb-edu")
    assert code == 0, err
    for words in (REPO, edu.branches["main"], "plain text → base pretraining", "ODC-By", "text string", "4 files"):
        assert words in out
    said = json.loads(run("data", "info", "fineweb-edu", "--json")[1])
    assert (said["schema"], said["default"]) == ("picollm.data-info/1", "sample-10BT")
    _, out, _ = run("data", "info", "everyday-conversations")
    assert "chat, roles → SFT" in out
    assert "2,260 rows" in out
    assert not hub.count("cdn", "HEAD")


@pytest.mark.row("K2")
def test_chats_are_not_for_shards(hub: Hub, home: Path, run: Run) -> None:
    code, _, err = run("shard", "everyday-conversations", "--dry-run")
    assert (code, "W101 chat data in a base-pretraining shard: roles become plain text" in err) == (2, True)
    assert "picollm sft" in err
    assert not hub.log


@pytest.mark.row("K3")
def test_several_configs_without_a_default_are_listed(hub: Hub, home: Path, run: Run) -> None:
    names = ("wikitext-2-raw-v1", "wikitext-103-raw-v1", "wikitext-2-v1", "wikitext-103-v1")
    hub.add("Salesforce/wikitext", {f"{name}/train-00000-of-00001.parquet": parquet(sentences(9, 1)) for name in names})
    code, _, err = run("shard", "wikitext", "--dry-run")
    assert (code, "wikitext has 4 configs: " in err, "--dataset-config" in err) == (2, True, True), err
    assert all(name in err for name in names)
    code, _, err = run("shard", "wikitext", "--dataset-config", names[1], "--dry-run")
    assert (code, f"{names[1]}, train: fetch 1 of 1 files" in err) == (0, True), err


@pytest.mark.row("K4")
def test_an_unknown_split_lists_the_real_ones(hub: Hub, chats: Repository, home: Path, run: Run) -> None:
    code, _, err = run("shard", "everyday-conversations", "--dataset-split", "train", "--dry-run")
    assert code == 2
    assert 'no split "train"; did you mean "train_sft"? (train_sft 2,260 rows, test_sft 119 rows)' in err


@pytest.mark.row("K6")
def test_a_column_of_metadata_is_seen_before_work(hub: Hub, edu: Repository, home: Path, run: Run) -> None:
    code, out, err = run("data", "peek", "fineweb-edu", "--text-column", "url")
    assert (code, out.count("https://example.org/")) == (0, 3), err
    assert 'W103 column "url" looks like metadata (median' in err
    assert "100% start with http" in err
    code, _, err = run("data", "peek", "fineweb-edu", "--text-column", "nope")
    assert (code, "text (string)" in err) == (2, True), err
    code, _, err = run("shard", "fineweb-edu", "--text-column", "url", "--dry-run")
    assert (code, "W103" in err) == (0, True), err
    code, out, err = run("data", "peek", "fineweb-edu")
    assert (code, err) == (0, "")


@pytest.mark.row("K6")
def test_a_column_of_turns_is_no_text(home: Path, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text((json.dumps({"messages": CHAT}) + "\n") * 3)
    code, _, err = run("data", "peek", str(path), "--text-column", "messages")
    assert (code, 'W103 column "messages" holds turns, not text' in err) == (0, True), err
    code, _, err = run("data", "peek", str(path))
    assert (code, err) == (0, "")


@pytest.mark.row("K4")
def test_validation_keeps_its_documents_when_more_files_arrive(home: Path, run: Run, tmp_path: Path) -> None:
    """By document hash: what was held out of two files is held out when there are four."""
    texts = [[f"document {file} {row}: " + "ka lo mi tu " * 9 for row in range(200)] for file in range(4)]
    for file, rows in enumerate(texts):
        (tmp_path / f"{file}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    folder = tmp_path / "growing"
    folder.mkdir()
    held, small = [], str(tmp_path / "small")
    assert run("tok", "train", str(tmp_path / "0.jsonl"), "--vocab-size", "300", "-o", small)[0] == 0
    for count in (2, 4):
        for file in range(count):
            shutil.copy(tmp_path / f"{file}.jsonl", folder)
        out = tmp_path / f"of-{count}"
        code, _, err = run("shard", str(folder), "--val-ppm", "100000", "--tokenizer", small, "-o", str(out))
        assert code == 0, err
        held.append(documents(out))
    assert held[0]
    assert held[0] < held[1]
    assert {text for text in held[1] if text < "document 2"} == held[0]


def documents(shards: Path) -> set[str]:
    """The validation documents of a set, as text."""
    tokenizer = Tokenizer.load(shards)
    found = set()
    for path in sorted(shards.glob("val_*.bin")):
        ids = np.memmap(path, "<u2", "r", 1024)
        ends = np.load(path.with_suffix("").with_suffix(".docs.npy"))
        found |= {tokenizer.decode(ids[a + 1 : b].tolist()) for a, b in itertools.pairwise(ends)}
    return found


@pytest.mark.row("K7")
def test_chats_are_rendered_with_their_mask(home: Path, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"messages": CHAT}) + "\n")
    code, out, err = run("data", "peek", str(path), "--rendered", "--sample", "1")
    assert code == 0, err
    lines = out.splitlines()
    assert sum(line.endswith(" <|assistant_start|>") for line in lines) == 1  # the one the user typed is plain text
    assert any(line.startswith("1 ") and line.endswith(" <|assistant_end|>") for line in lines)
    assert any(line.startswith("0 ") and line.endswith(" <|user_end|>") for line in lines)
    plain = tmp_path / "plain.jsonl"
    plain.write_text('{"text": "no turns here"}\n')
    code, _, err = run("data", "peek", str(plain), "--chat-format", "roles")
    assert (code, "W104 no alternating turns" in err) == (0, True)


def test_any_data_set_with_parquet_or_jsonl_is_read(hub: Hub, home: Path, run: Run) -> None:
    documents = sentences(40, 5)
    lines = "".join(json.dumps({"body": text, "n": 1}) + "\n" for text in documents).encode()
    hub.add("owner/parquet", {"train-00000-of-00001.parquet": parquet(documents), "README.md": b"#"})
    hub.add("owner/lines", {"a.jsonl": lines, "b.jsonl": lines + lines})  # small files: only a git hash is listed
    hub.add("owner/csv", {"a.csv": b"text\nhi\n"})
    hub.repositories["owner/csv"].commit({"default/train/0000.parquet": parquet(documents)}, "refs/convert/parquet")
    for spec, count in (("owner/parquet", 40), ("hf://owner/lines", 120), ("owner/csv", 40)):
        code, out, err = run("shard", spec)
        assert (code, f"{count} documents" in out) == (0, True), (out, err)
    assert "revision" in (home / "shards" / "lines" / "plan.json").read_text()
    hub.repositories["owner/csv"].commit({"default/partial-train/0000.parquet": b""}, "refs/convert/parquet")
    code, _, err = run("data", "info", "owner/csv")
    assert (code, "of a part only" in err) == (4, True), err
