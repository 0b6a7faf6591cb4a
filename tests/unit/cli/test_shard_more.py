"""`picollm shard` beyond build: shares of a plan, and what can be done with a finished set."""

import contextlib
import json
import re
import subprocess
from pathlib import Path

import pytest
from tests.campaigns.crash import GIVE_UP_SECONDS, command, environment, finish, tree, write_source
from tests.unit.cli.test_shard_command import home, run, with_tokenizer

__all__ = ["home", "with_tokenizer"]  # fixtures


@pytest.mark.slow
@pytest.mark.row("K12")
def test_killed_half_way_the_same_command_ends_in_the_same_files_and_a_cut_one_is_named(
    with_tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_source(with_tokenizer / "source")
    finish(with_tokenizer, "unbroken")
    segments = len(list((with_tokenizer / "unbroken").glob("segment_*.json")))
    killed = with_tokenizer / "killed"
    process = subprocess.Popen(
        [*command("killed", "--workers", "1"), "--progress", "json"],
        cwd=with_tokenizer,
        env=environment(with_tokenizer),
    )
    while process.poll() is None and len(list(killed.glob("segment_*.json"))) < segments // 2:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.01)
    process.kill()
    process.wait(GIVE_UP_SECONDS)
    code, out, _ = run(capsys, "status", "killed", "--json")
    found = json.loads(out)
    assert (code, found["schema"], found["segments"]) == (0, "picollm.shard-status/1", segments)
    finish(with_tokenizer, "killed")
    assert tree(killed) == tree(with_tokenizer / "unbroken")
    assert re.search(r"\d+ shards OK", run(capsys, "verify", "killed")[1])
    path = killed / "train_000001.bin"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-10])
    code, _, err = run(capsys, "verify", "killed")
    assert (code, "train_000001.bin" in err) == (3, True), err


@pytest.mark.row("K14")
def test_stats_show_lengths_and_shares_for_both_packings(
    with_tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "data")
    code, out, _ = run(capsys, "stats", "data", "--max-seq-len", "64")
    assert (code, "documents" in out) == (0, True)
    for packing in ("bestfit", "concat"):
        assert re.search(rf"{packing} +[\d,]+ rows: [\d.]+% padding, 0% dropped", out), out
    facts = json.loads(run(capsys, "stats", "data", "--json")[1])
    assert (facts["schema"], facts["max_seq_len"], len(facts["packing"])) == ("picollm.shard-stats/1", 2048, 2)


def test_plan_run_finalize_is_build_in_three_steps(with_tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "data", "--shard-tokens", "1K")
    code, out, err = run(capsys, "plan", "data", "--shard-tokens", "1K", "--out", "shares")
    assert (code, "segments of data" in out) == (0, True), err
    code, _, err = run(capsys, "finalize", "shares")
    assert (code, "picollm shard run" in err) == (4, True), err
    assert "picollm shard run shares" in run(capsys, "status", "shares")[1]
    for task in ("1/2", "0/2"):
        assert f"by task {task}" in run(capsys, "run", "shares", "--task", task)[1]
    assert "picollm shard finalize shares" in run(capsys, "status", "shares")[1]
    assert run(capsys, "finalize", "shares")[0] == 0
    assert tree(with_tokenizer / "shares") == tree(with_tokenizer / "shards" / "data")


@pytest.mark.parametrize("engine", ["slurm", "ray"])
def test_an_emitter_prints_a_file_and_runs_nothing(
    engine: str, with_tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "plan", "data", "--shard-tokens", "1K", "--emit", engine, "--tasks", "2")
    assert code == 0, err
    shard_set = with_tokenizer / "shards" / "data"
    assert f"picollm shard run {shard_set}" in out
    assert out.startswith("#!/bin/bash" if engine == "slurm" else "ray job submit")
    assert not list(shard_set.glob("segment_*.json"))


def test_sample_pack_unpack_and_export(with_tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "data")
    code, out, _ = run(capsys, "sample", "data", "-n", "2", "--json")
    assert (code, [json.loads(line)["schema"] for line in out.splitlines()]) == (0, ["picollm.shard-sample/1"] * 2)
    assert run(capsys, "sample", "data")[1].count("--- train_000000, document ") == 3
    assert run(capsys, "pack", "data")[0] == 0
    code, out, _ = run(capsys, "unpack", "data.tar", "--out", "there")
    assert (code, tree(with_tokenizer / "there")) == (0, tree(with_tokenizer / "shards" / "data"))
    code, out, _ = run(capsys, "export", "data", "--to", "megatron")
    assert (code, "--train-data-path" in out) == (0, True)
    assert run(capsys, "export", "data")[0] == 2


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["run", "nowhere"], 4, "no plan.json"),
        (["run", "nowhere", "--task", "3/3"], 2, "0/3"),
        (["run", "nowhere", "--task", "0/3", "--engine", "ray"], 2, "--task"),
        (["data", "--max-ram", "100M"], 2, "198 MiB"),
        (["finalize", "nowhere"], 4, "no plan.json"),
    ],
)
def test_a_mistake_has_its_exit_code(
    args: list[str], code: int, says: str, with_tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, _, err = run(capsys, *args)
    assert (found, says in err) == (code, True), err


def test_a_build_can_speak_json(with_tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "data", "--json", "--progress", "json")
    assert (code, json.loads(out)["schema"]) == (0, "picollm.shard-info/1")
    events = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert events[-1]["event"] == "progress"
    assert events[-1]["done"] == events[-1]["total"]
