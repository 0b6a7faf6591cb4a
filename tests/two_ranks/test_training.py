"""Real torchrun, two gloo ranks, against one process."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.train.small import small_parts, small_plan, train_small

from picollm.ckpt import protocol
from picollm.ckpt.tensors import Tensors
from picollm.plan.request import Interval
from picollm.runtime.dist import STEP_VARIABLE
from picollm.runtime.runlog import METRICS, read
from picollm.train.state import restore

REPOSITORY = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("worker.py")
PLAN = {"num_iterations": 20, "learning_rate": 0.1}
pytestmark = pytest.mark.slow


def torchrun(ranks: int, said: dict[str, Any], *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", *options]
    paths = [str(REPOSITORY / "python"), str(REPOSITORY)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    arguments = [*command, str(WORKER), json.dumps(said)]
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=280)


def two_ranks(folder: Path, *options: str, ranks: int = 2, **said: Any) -> str:
    """Train on two (or more) ranks, which end with equal weights; what they said on stderr."""
    done = torchrun(ranks, {"folder": str(folder), "plan": PLAN, **said}, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    digests = json.loads((folder / "digests.json").read_text())
    assert len(set(digests)) == 1, "the ranks ended with different weights"
    return done.stderr


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read(folder / METRICS) if line["kind"] == "step"]


def furthest(a: list[float], b: list[float]) -> float:
    assert len(a) == len(b) == PLAN["num_iterations"]
    return max(abs(x - y) / abs(y) for x, y in zip(a, b, strict=True))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two") / "run"
    two_ranks(folder)
    return folder


def test_two_ranks_train_as_one_process_does_in_fp32(unbroken: Path, tmp_path: Path) -> None:
    train_small(small_plan(**PLAN), tmp_path)
    assert furthest(losses(unbroken), losses(tmp_path)) <= 1e-4


def test_two_ranks_train_as_one_process_does_in_float64(tmp_path: Path) -> None:
    said = {**PLAN, "dtype": "fp64", "device_batch_size": 3}  # 8 rows in slots of 3: some are masked
    two_ranks(tmp_path / "two", plan=said)
    train_small(small_plan(**said), tmp_path / "one")
    assert furthest(losses(tmp_path / "two"), losses(tmp_path / "one")) <= 1e-10


def handed_over(folder: Path, said: dict[str, Any], ranks: int) -> None:
    """The newest checkpoint is one of so many ranks, and one process takes its optimizer state over bit for bit."""
    path = protocol.newest(folder / "checkpoints", pytest.fail)
    assert path is not None
    files = protocol.optimizer_files(path, protocol.verify(path))
    assert [file.name for file in files] == [f"optim-r{rank}of{ranks}.safetensors" for rank in range(ranks)]
    parts = small_parts(small_plan(**said), folder)
    restore(parts, path)
    with Tensors(files) as tensors:
        whole = parts.optimizer.state_dict()
        assert {name.split("[")[0] for name in tensors} == {name.split("[")[0] for name in whole}
        for name, tensor in tensors.items():
            base, _, rows = name.partition("[")
            start, _, end = rows.rstrip("]").partition(":")
            mine = next(held for key, held in whole.items() if key.split("[")[0] == base)
            assert torch.equal(mine[int(start) : int(end)] if rows else mine, tensor), name


@pytest.mark.row("C10")
def test_a_run_goes_on_from_one_process_to_two_to_four_and_back_from_the_same_bits(tmp_path: Path) -> None:
    said = {**PLAN, "dtype": "fp64"}
    plan, run = small_plan(**said), tmp_path / "run"
    train_small(replace(plan, stop_after=Interval(5, "steps")), run)
    for ranks, cap in ((2, 5), (4, 4)):  # --stop-after counts the steps of a session
        two_ranks(run, ranks=ranks, plan=said, stop_after=cap)
        handed_over(run, said, ranks)
    train_small(plan, run)
    train_small(plan, tmp_path / "one")
    assert furthest(losses(run), losses(tmp_path / "one")) <= 1e-10


@pytest.mark.row("C5")
def test_a_killed_rank_takes_the_others_down_and_a_restart_finds_the_same_curve(unbroken: Path, tmp_path: Path) -> None:
    two_ranks(tmp_path / "killed", "--max-restarts=1", fault={"rank": 1, "step": 7, "what": "SIGKILL"})
    assert losses(tmp_path / "killed") == losses(unbroken)


@pytest.mark.row("C6")
def test_a_rank_that_hangs_is_noticed_in_the_step_and_a_restart_finds_the_same_curve(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STEP_VARIABLE, "10")
    options = ("--max-restarts=1", "--shutdown-timeout=1")
    said = two_ranks(tmp_path / "hung", *options, fault={"rank": 1, "step": 7, "what": "SIGSTOP"})
    assert "another rank has died or does not answer" in said
    assert losses(tmp_path / "hung") == losses(unbroken)


@pytest.mark.row("C7")
def test_a_nan_on_one_rank_is_skipped_by_all_and_that_rank_is_named(tmp_path: Path) -> None:
    two_ranks(tmp_path, fault={"rank": 1, "step": 7, "what": "nan"})
    (line,) = [line for line in read(tmp_path / METRICS) if line["kind"] == "guard"]
    assert (line["action"], line["step"], line["ranks"], line["repeats"]) == ("skip", 8, [1], True)
    assert line["tensors"] == ["lm_head.weight"]
    steps = [line for line in read(tmp_path / METRICS) if line["kind"] == "step"]
    assert [line["updates"] for line in steps[5:10]] == [6, 7, 7, 8, 9]
