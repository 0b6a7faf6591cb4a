"""Quickstart's names, clock and screen: nothing finished is overwritten, every second is counted once."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from picollm.cli.quickstart import STAGES, Screen, Walk, run_name
from picollm.layout import Layout
from picollm.plan.request import TrainRequest
from picollm.plan.trainplan import TrainPlan
from picollm.train.opening import read_plan

GOLDEN = Path(__file__).parents[2] / "golden" / "run"


@pytest.fixture
def saved(tmp_path: Path) -> TrainPlan:
    """The plan of a run that lies in runs/quickstart, started and not finished."""
    (tmp_path / "quickstart").mkdir()
    shutil.copy(GOLDEN / "plan.json", tmp_path / "quickstart")
    plan = read_plan(tmp_path / "quickstart")
    assert plan is not None
    return plan


def fingerprint(plan: TrainPlan) -> str:
    assert plan.data is not None
    return plan.data.fingerprint


def test_an_unfinished_run_of_the_same_request_goes_on(tmp_path: Path, saved: TrainPlan) -> None:
    assert run_name(tmp_path, TrainRequest.from_json(saved.request), fingerprint(saved)) == "quickstart"


def test_a_finished_run_is_left_alone(tmp_path: Path, saved: TrainPlan) -> None:
    (tmp_path / "quickstart-sft").mkdir()
    (tmp_path / "quickstart-sft" / "report.md").touch()
    assert run_name(tmp_path, TrainRequest.from_json(saved.request), fingerprint(saved)) == "quickstart-2"


def test_another_request_or_other_data_take_another_name(tmp_path: Path, saved: TrainPlan) -> None:
    asked = TrainRequest.from_json(saved.request)
    assert run_name(tmp_path, replace(asked, seed=99), fingerprint(saved)) == "quickstart-2"
    assert run_name(tmp_path, asked, "0" * 64) == "quickstart-2"


def test_stage_times_add_up_to_the_time_since_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    walk = Walk(4.0, "stdlib", 1337, Layout.from_env())
    start = walk.last
    for _ in STAGES:
        walk.done("text")
    assert sum(walk.spent.values()) == pytest.approx(walk.last - start, abs=1e-9)
    assert capsys.readouterr().out.splitlines()[-1].startswith("[6/6] done ")


def test_the_screen_lets_progress_and_warnings_through_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen("[4/6] train   ")
    screen.line.next_plain = 0.0
    for text in (
        " 1 data  …\n",
        "step 18: val 2.0 bits per byte\n",
        "warning: disk is full\n",
        "step 18/176 · loss\n",
    ):
        screen.write(text)
    assert capsys.readouterr().err.splitlines() == ["warning: disk is full", "[4/6] train   step 18/176 · loss"]
