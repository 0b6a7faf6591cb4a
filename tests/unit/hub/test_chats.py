"""Conversations and examinations from the Hub: whole, checked, kept, and used as files on this machine are."""

import gzip
import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.hub import Hub
from tests.unit.evals.test_core import written
from tests.unit.evals.test_humaneval import DISC, row
from tests.unit.hub.conftest import Run
from tests.unit.train.base_run import base_run

from picollm.errors import CheckError, MissingError, UsageError
from picollm.evals.published import bring
from picollm.loader.chats import read_chats

CHATS = "HuggingFaceTB/everyday-conversations-llama3.1-2k"
ASKED = [{"role": "user", "content": "who are you?"}, {"role": "assistant", "content": "I am Pico."}]
SAID = [{"from": "human", "value": "who are you?"}, {"from": "gpt", "value": "I am Pico."}]


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


@pytest.fixture
def model(home: Path) -> Path:
    """A home with a base run."""
    return base_run(home / "runs")


@pytest.mark.row("K45")
def test_a_data_set_of_chats_is_fetched_and_learned_from(hub: Hub, model: Path, run: Run) -> None:
    splits = [{"split": name, "path": f"data/{name}-*"} for name in ("train_sft", "test_sft")]
    files = {
        f"data/{name}-00000-of-00001.parquet": parquet([{"messages": ASKED}] * 40) for name in ("train_sft", "test_sft")
    }
    hub.add(CHATS, files, card={"configs": [{"config_name": "default", "data_files": splits}]})
    steps = ("--num-iterations", "2", "--total-batch-size", "256")
    code, _, err = run("sft", "base", "--dataset-name", "everyday-conversations", *steps)
    assert code == 0, err
    assert (model.parent / "base-sft" / "exit.json").is_file()
    fetched = hub.count("cdn", "GET")
    assert fetched == 1
    code, _, err = run("sft", "base", "--dataset-name", "everyday-conversations", "--name", "again", *steps)
    assert (code, hub.count("cdn", "GET")) == (0, fetched), err
    code, _, err = run("sft", "base", "--dataset-name", "everyday-conversations", "--dataset-split", "train", *steps)
    assert (code, "train_sft" in err) == (2, True)


def test_columns_of_turns_are_read_by_any_of_their_names(tmp_path: Path) -> None:
    for number, rows in enumerate(([{"messages": ASKED}], [{"conversations": SAID, "id": 3}])):
        path = tmp_path / f"{number}.parquet"
        path.write_bytes(parquet(rows))
        [found] = read_chats(path)
        assert [message.text for message in found.turns] == ["who are you?", "I am Pico."]
    path.write_bytes(parquet([{"text": "plain"}]))
    with pytest.raises(UsageError, match="no column messages"):
        list(read_chats(path))
    path.write_bytes(parquet([{"messages": ASKED}, {"messages": ASKED[1:]}]))
    with pytest.raises(CheckError, match="row 2"):
        list(read_chats(path))


@pytest.mark.row("E4")
def test_core_is_asked_over_the_hub(hub: Hub, model: Path, tmp_path: Path, run: Run) -> None:
    bundle = written(tmp_path / "bundle")
    files = {
        f"eval_bundle/{path.relative_to(bundle)}": path.read_bytes() for path in bundle.rglob("*") if path.is_file()
    }
    hub.add("someone/core", {**files, "README.md": b"x", "weights.bin": b"never fetched"})
    said = ("eval", "base", "--task", "core", "--data", "hf://someone/core", "--json")
    code, out, err = run(*said)
    assert code == 0, err
    assert json.loads(out)["core"]["tasks"].keys() == {"letters", "who", "say"}
    assert not hub.count("hub", "GET", "weights.bin")
    local, _ = run(*said[:4], "--data", str(bundle), "--json")[1:]
    assert json.loads(local)["core"] == json.loads(out)["core"]


@pytest.mark.parametrize("form", ["parquet", "jsonl.gz"])
def test_tasks_are_fetched_from_where_they_are_published(
    hub: Hub, model: Path, run: Run, form: str, home: Path
) -> None:
    """In the forms that the data sets have there; HumanEval serves a base model too."""
    rows = [json.loads(row(DISC))] * 3
    data = (
        parquet(rows) if form == "parquet" else gzip.compress("".join(json.dumps(one) + "\n" for one in rows).encode())
    )
    own = "openai/openai_humaneval"
    name = "openai_humaneval/test-00000-of-00001.parquet" if form == "parquet" else "data/HumanEval.jsonl.gz"
    hub.add(own if form == "parquet" else "some/mirror", {name: data})
    place = () if form == "parquet" else ("--data", "hf://some/mirror")
    code, out, err = run(
        "eval", "base", "--task", "humaneval", "--allow-code-exec", "--max-per-task", "1", "--json", *place
    )
    if code == 4:
        assert "no sandbox here" in err
        pytest.skip("no bubblewrap here")
    assert code == 0, err
    assert json.loads(out)["chat"]["tasks"]["humaneval"]["of"] == 3


def test_what_is_not_there_or_not_a_name_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.add("some/other", {"a.txt": b"x"})
    with pytest.raises(MissingError, match=re.escape("no core.yaml among its 1 files")):
        bring("hf://some/other", ("core.yaml",), tmp_path)
    with pytest.raises(UsageError, match="not hf://owner/name"):
        bring("hf://nonsense", ("core.yaml",), tmp_path)


@pytest.mark.row("A5")
def test_a_file_that_is_not_the_listed_one_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.add("some/core", {"eval_bundle.zip": b"PK" * 100_000})
    hub.fault("cdn:eval_bundle.zip", "flip", 2)
    with pytest.raises(Exception, match="sha256"):
        bring("hf://some/core", ("eval_bundle.zip",), tmp_path)
    assert not list(tmp_path.rglob("eval_bundle.zip"))
