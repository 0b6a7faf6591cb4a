"""Measured steps: their share of a horizon of time, and the plan that is told."""

import json
from pathlib import Path

import pytest
from tests.unit.train.small import small_plan

from picollm.cli.main import main
from picollm.layout import Layout
from picollm.plan.measured import Measured
from picollm.plan.speed import validations, with_measured
from picollm.plan.trainplan import TrainPlan
from picollm.train.measure import EVAL_COST, LEAST_TRAINING, STEPS, WARM, training_share
from picollm.train.opening import MEASURED, read_plan

FIGURES = Measured((0.2, 0.1, 0.3), 0.5, 0.01, 10**9, 0.25, "random rows")
SMALL = ["--depth", "2", "--hidden-size", "32", "--head-dim", "16", "--max-seq-len", "32", "--num-iterations", "6",
         "--total-batch-size", "256", "--device-batch-size", "4", "--val-tokens", "1024", "--device", "cpu",
         "--peak-flops", "1e10", "--workers", "1"]  # fmt: skip


def test_a_long_run_pays_a_share_of_its_tokens_for_validation() -> None:
    assert training_share(0.9, validating=1e-4) == pytest.approx(0.9 / (1 + EVAL_COST))


def test_a_short_run_pays_for_the_smallest_validation_set() -> None:
    assert training_share(0.9, validating=0.15) == pytest.approx(0.75)


def test_a_run_too_short_to_validate_still_trains() -> None:
    assert training_share(0.9, validating=3.0) == pytest.approx(0.9 * LEAST_TRAINING)


def test_measured_figures_replace_the_estimates_and_survive_the_plan_s_file() -> None:
    plan = with_measured(small_plan(num_iterations=12, eval_every=5), FIGURES)
    assert validations(plan) == 4  # steps 0, 5, 10 and 12
    assert plan.estimate.seconds == pytest.approx(12 * 0.2 + 4 * 0.5)
    assert plan.estimate.measured
    assert plan.memory.peak == 10**9 != plan.memory.total
    assert TrainPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def picollm(*words: str) -> int:
    with pytest.raises(SystemExit) as done:
        main(list(words))
    assert isinstance(done.value.code, int)
    return done.value.code


def test_a_measured_plan_is_kept_for_its_run_and_the_report_compares(
    home: Layout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PICOLLM_HOME", str(home.root))
    assert picollm("plan", *SMALL, "--name", "measured", "--measure") == 0
    out = capsys.readouterr().out
    assert f"{STEPS - WARM} steps on shards tiny" in out
    assert "assumed" not in out
    run = home.runs / "measured"
    assert [path.name for path in run.iterdir()] == [MEASURED]

    assert picollm("train", *SMALL, "--name", "measured") == 0
    plan = read_plan(run)
    assert plan is not None
    assert plan.measured is not None
    assert plan.memory.measured == plan.measured.peak_memory
    assert picollm("report", "measured") == 0
    page = (run / "report.md").read_text()
    assert "Predicted from: measured before the run, 8 steps on shards tiny" in page
    for name in ("time", "tokens/s", "memory"):
        (row,) = [line for line in page.splitlines() if line.startswith(f"| {name} |")]
        assert row.endswith(" % |")


def test_without_shards_rows_are_random_and_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PICOLLM_HOME", str(tmp_path))
    assert picollm("plan", *SMALL, "--vocab-size", "300", "--measure", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["measured"]["rows"] == "random rows (no shards of this vocabulary)"
    assert len(plan["measured"]["step_seconds"]) == STEPS - WARM
    assert plan["time"]["measured"] is True
    assert plan["memory"]["measured"] > 0
    assert list(tmp_path.iterdir()) == []


def test_another_machine_cannot_be_measured_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert picollm("plan", "--gpu", "h100", "--depth", "4", "--measure") == 2
    assert "--gpu h100 is elsewhere" in capsys.readouterr().err
