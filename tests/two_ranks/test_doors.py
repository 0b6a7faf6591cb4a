"""`picollm train`, `picollm train --nproc 2` and `torchrun -m picollm.train` are one door, signals included."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from picollm.layout import Layout
from picollm.runtime.runlog import METRICS, TIME_FIELDS, read

REPOSITORY = Path(__file__).resolve().parents[2]
OPTIONS = ["--depth", "2", "--hidden-size", "32", "--head-dim", "16", "--max-seq-len", "32", "--device", "cpu",
           "--total-batch-size", "256", "--device-batch-size", "4", "--eval-every", "100", "--val-tokens", "1024",
           "--peak-flops", "1e10", "--workers", "1", "--max-epochs", "1e6"]  # fmt: skip
PICOLLM = [sys.executable, "-m", "picollm.cli.main", "train"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
            "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1", "-m", "picollm.train"]  # fmt: skip
LONG = ["--num-iterations", "100000"]
pytestmark = pytest.mark.slow


def start(command: list[str], home: Layout, *options: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY / "python")}
    environment["PICOLLM_HOME"] = str(home.root)
    return subprocess.Popen([*command, *OPTIONS, *options], env=environment, stderr=subprocess.PIPE, text=True)


def finish(child: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = child.communicate(timeout=250)
    return child.returncode, said


def wait_for_steps(child: subprocess.Popen[str], run: Path, count: int) -> None:
    """Come back when the run has logged so many steps. A hang guard, not a measurement."""
    end = time.monotonic() + 200
    while time.monotonic() < end and child.poll() is None:
        if (run / METRICS).exists() and (run / METRICS).read_bytes().count(b'"kind": "step"') >= count:
            return
        time.sleep(0.05)
    child.kill()
    pytest.fail(f"no {count} steps: {child.communicate()[1][-2000:]}")


def verdict(run: Path) -> dict[str, object]:
    value: dict[str, object] = json.loads((run / "exit.json").read_text())
    return value


def steps(run: Path) -> list[dict[str, object]]:
    lines = [line for line in read(run / METRICS) if line["kind"] == "step"]
    return [{key: value for key, value in line.items() if key not in TIME_FIELDS} for line in lines]


@pytest.mark.row("C4", "K33")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 75)])
def test_a_signal_saves_and_leaves_with_its_code(home: Layout, number: signal.Signals, code: int) -> None:
    name = f"alone-{code}"
    child = start(PICOLLM, home, *LONG, "--name", name)
    wait_for_steps(child, home.runs / name, 3)
    child.send_signal(number)
    status, said = finish(child)
    assert status == code, said[-2000:]
    assert f"{number.name}: saved step" in said
    assert f"picollm train --resume {home.runs / name}" in said
    found = verdict(home.runs / name)
    assert (found["code"], found["reason"]) == (code, number.name)
    assert (home.runs / name / str(found["checkpoint"])).is_dir()


@pytest.mark.row("C1")
def test_a_killed_process_started_again_ends_in_the_same_bits(home: Layout) -> None:
    options = ["--num-iterations", "60", "--save-every", "7"]
    child = start(PICOLLM, home, *options, "--name", "killed")
    wait_for_steps(child, home.runs / "killed", 17)
    child.kill()
    finish(child)
    status, said = finish(start(PICOLLM, home, *options, "--name", "killed"))
    assert status == 0, said[-2000:]
    assert "goes on at step" in said
    assert finish(start(PICOLLM, home, *options, "--name", "whole"))[0] == 0
    assert steps(home.runs / "killed") == steps(home.runs / "whole")


@pytest.mark.row("C4")
def test_two_ranks_started_by_nproc_stop_together_and_hand_on_the_code(home: Layout) -> None:
    child = start(PICOLLM, home, *LONG, "--nproc", "2", "--name", "pair")
    wait_for_steps(child, home.runs / "pair", 3)
    child.send_signal(signal.SIGTERM)
    status, said = finish(child)
    assert status == 143, said[-2000:]
    assert said.count("SIGTERM: saved step") == 1
    assert verdict(home.runs / "pair")["code"] == 143


@pytest.mark.row("C4")
def test_under_torchrun_a_clean_stop_exits_0_and_the_meaning_is_in_exit_json(home: Layout) -> None:
    child = start(TORCHRUN, home, *LONG, "--name", "torchrun")
    wait_for_steps(child, home.runs / "torchrun", 3)
    child.send_signal(signal.SIGUSR1)
    status, said = finish(child)
    assert verdict(home.runs / "torchrun")["code"] == 75, said[-2000:]
    assert "Traceback" not in said or "SignalException" in said, status


def test_under_torchrun_only_rank_0_speaks_of_an_error(home: Layout) -> None:
    status, said = finish(start(TORCHRUN, home, "--shards", "nowhere", *LONG))
    assert status == 1
    assert said.count("error: no shards for nowhere") == 1
    assert finish(start(PICOLLM, home, "--shards", "nowhere", *LONG, "--nproc", "2"))[0] == 4


def test_a_dry_run_prints_what_plan_prints_and_needs_no_shards(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "python"), "PICOLLM_HOME": str(tmp_path)}
    options = ["--target-flops", "1e19", "--peak-flops", "1e10", "--device", "cpu"]
    plan, dry = (
        subprocess.run(
            [sys.executable, "-m", "picollm.cli.main", *words, *options], env=environment, capture_output=True
        )
        for words in (["plan"], ["train", "--dry-run"])
    )
    assert plan.returncode == dry.returncode == 0
    assert plan.stdout == dry.stdout
    assert b"no shards here: picollm shard fineweb-edu" in dry.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flops", "golden"),
    [
        ("1e18", ("depth 12 (ratio 12.0", "2,511 steps", "1,316,487,168", "524,288 tokens/step")),
        ("1e19", ("depth 18 (ratio 14.1", "4,375 steps", "4,587,520,000", "1,048,576 tokens/step")),
        ("4e19", ("depth 24 (ratio 11.5", "7,989 steps", "8,377,073,664", "1,048,576 tokens/step")),
    ],
)
def test_torchrun_s_dry_run_prints_the_plan_with_the_specification_s_numbers(
    tmp_path: Path, flops: str, golden: tuple[str, ...]
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "python"), "PICOLLM_HOME": str(tmp_path)}
    options = ["--target-flops", flops, "--vocab-size", "32768", "--gpu", "h100"]
    dry = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", "-m", "picollm.train"]
    plan, run = (
        subprocess.run([*command, *options], env=environment, capture_output=True, text=True, check=True).stdout
        for command in ([*PICOLLM[:3], "plan"], [*dry, "--dry-run"])
    )
    assert plan == run
    for words in golden:
        assert words in plan, plan


def test_a_plan_that_cannot_run_is_refused_before_torch_is_loaded(home: Layout) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "python"), "PICOLLM_HOME": str(home.root)}
    blocked = "import sys; sys.modules['torch'] = None; from picollm.cli.main import main; main(sys.argv[1:])"
    large = ["--depth", "64", "--max-seq-len", "2048", "--device-batch-size", "64", "--name", "too-large"]
    for options, code, words in (
        ([*large, "--num-iterations", "1", "--device", "cpu", "--max-epochs", "1e6"], 5, "E503"),
        (["--shards", "nowhere", "--depth", "4"], 4, "no shards for nowhere"),
    ):
        command = [sys.executable, "-c", blocked, "train", *options]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert words in done.stderr
    assert not (home.runs / "too-large").exists()


@pytest.mark.row("K23")
def test_two_processes_give_the_losses_of_one_as_runs_compare_says(home: Layout) -> None:
    options = ["--num-iterations", "20"]
    assert finish(start(PICOLLM, home, *options, "--name", "one"))[0] == 0
    status, said = finish(start(PICOLLM, home, *options, "--nproc", "2", "--name", "two"))
    assert status == 0, said[-2000:]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "python"), "PICOLLM_HOME": str(home.root)}
    words = ["runs", "compare", "one", "two", "--metric", "loss", "--json"]
    done = subprocess.run([*PICOLLM[:3], *words], env=environment, capture_output=True, check=True)
    found = json.loads(done.stdout)
    assert len(found["points"]) == 20
    assert found["largest_difference"] < 1e-4


def test_a_plan_is_measured_on_as_many_processes_as_it_has(home: Layout) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "python"), "PICOLLM_HOME": str(home.root)}
    environment["OMP_NUM_THREADS"] = "1"
    words = ["plan", *OPTIONS, "--num-iterations", "20", "--nproc", "2", "--measure", "--json"]
    done = subprocess.run([*PICOLLM[:3], *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["ranks"] == 2
    assert plan["measured"]["rows"] == "shards tiny"
    assert (home.runs / plan["name"] / "measured.json").is_file()
