"""`picollm sft` as it is typed."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.unit.train.base_run import base_run

from picollm.cli.sft import command
from picollm.errors import CheckError, UsageError

FEW = ["--num-iterations", "2", "--total-batch-size", "256"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    base_run(folder)
    return folder


def test_smalltalk_and_a_file_become_runs_whose_names_are_said(runs: Path, tmp_path: Path) -> None:
    chats = tmp_path / "mine.jsonl"
    rows = [[{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}!"}] for n in range(30)]
    chats.write_text("\n".join(map(json.dumps, rows)))
    for said, name in ((["--chats", "50"], "base-sft"), (["--dataset-name", str(chats), "--name", "mine"], "mine")):
        result = CliRunner().invoke(command, ["base", *said, *FEW, "--runs-dir", str(runs)], catch_exceptions=False)
        assert result.exit_code == 0
        assert result.stdout.strip() == str(runs / name)
        assert json.loads((runs / name / "exit.json").read_text())["reason"] == "finished"
    assert (runs / "base-sft" / "evals" / "facts.json").is_file()


def test_an_unknown_dashboard_is_refused_first(runs: Path) -> None:
    command_line = ["base", "--chats", "50", *FEW, "--runs-dir", str(runs), "--name"]
    with pytest.raises(UsageError, match="nosuch"):
        CliRunner().invoke(command, [*command_line, "boards", "--log", "nosuch"], catch_exceptions=False)
    assert not (runs / "boards").exists()


def test_plain_text_is_sent_to_the_stage_it_fits(runs: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text('{"text": "Once upon a time"}\n')
    with pytest.raises(CheckError, match="W102 plain text") as caught:
        CliRunner().invoke(
            command, ["base", "--dataset-name", str(text), "--runs-dir", str(runs)], catch_exceptions=False
        )
    assert caught.value.hint.startswith("picollm shard")


def test_options_that_contradict_each_other_are_refused(runs: Path) -> None:
    for said in (
        ["--num-epochs", "1"],
        ["--total-batch-size", "100"],
        ["--dataset-name", "x.jsonl", "--identity", "y"],
    ):
        with pytest.raises(UsageError):
            CliRunner().invoke(command, ["base", *FEW, *said, "--runs-dir", str(runs)], catch_exceptions=False)
