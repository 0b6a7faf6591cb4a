"""What happens after bad steps: skip, go back without their rows, stop."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.train.small import (
    Rows,
    assert_equal_bits,
    small_parts,
    small_plan,
    tensors_of,
    timeless,
    train_small,
)

from picollm.ckpt import protocol
from picollm.loader.batch import Batch
from picollm.plan.trainplan import TrainPlan
from picollm.runtime.dist import World
from picollm.runtime.runlog import METRICS, read
from picollm.train.guard import PATIENCE
from picollm.train.pretrain import diverged
from picollm.train.state import Parts


class Killed(Exception):
    pass


class DiesAfter(Rows):
    """Raises, as if the process were gone, when it is asked for one step too many."""

    def __init__(self, plan: TrainPlan, world: World, steps: int) -> None:
        super().__init__(plan, world)
        self.left = steps

    def next_step(self) -> list[Batch]:
        self.left -= 1
        if self.left < 0:
            raise Killed
        return super().next_step()


def rows_taken(parts: Parts, plan: TrainPlan) -> int:
    """Steps that the stream has handed out."""
    taken: int = parts.stream.state_dict()["rows"] // plan.rows_per_step
    return taken


def poison(parts: Parts, when: Callable[[], bool]) -> None:
    """Make a gradient NaN while `when()`, which is asked once for every backward."""
    parts.model.lm_head.weight.register_hook(lambda grad: grad * float("nan") if when() else grad)


@pytest.fixture(scope="module")
def plan() -> TrainPlan:
    return small_plan()


@pytest.mark.row("C7")
def test_three_bad_steps_before_any_checkpoint_end_the_run_with_the_last_finite_state_saved(
    plan: TrainPlan, tmp_path: Path
) -> None:
    parts = small_parts(plan, tmp_path)
    poison(parts, lambda: parts.step >= 1)
    train_small(plan, tmp_path, parts)
    assert (parts.leaving, parts.step, parts.saved) == ("diverged", 1 + PATIENCE, 1 + PATIENCE)
    error = diverged(plan, parts)
    assert error.exit_code == 1
    assert error.message == "E501 loss not finite at step 4 (x3). Last good: step 1; saved as step 4"
    newest = protocol.newest(tmp_path / "checkpoints", pytest.fail)
    assert newest is not None
    assert newest.name.endswith("04")
    guards = [line for line in read(tmp_path / METRICS) if line["kind"] == "guard"]
    assert [line["step"] for line in guards] == [2, 3, 4]
    assert all(line["repeats"] and line["ranks"] == [0] for line in guards)
    assert all(line["tensors"] == ["lm_head.weight"] for line in guards)


@pytest.mark.row("C7")
def test_rows_that_are_bad_three_times_running_are_left_out_and_the_run_ends_as_if_they_were_not_there(
    plan: TrainPlan, tmp_path: Path
) -> None:
    parts = small_parts(plan, tmp_path / "poisoned")
    poison(parts, lambda: 5 < rows_taken(parts, plan) <= 5 + PATIENCE)
    train_small(plan, tmp_path / "poisoned", parts)
    assert (parts.step, parts.updates, parts.leaving) == (plan.steps, plan.steps, None)
    assert parts.guard.left_out == [(5, 5 + PATIENCE)]

    without = small_parts(plan, tmp_path / "without")
    without.guard.left_out = [(5, 5 + PATIENCE)]
    train_small(plan, tmp_path / "without", without)
    assert_equal_bits(tensors_of(parts), tensors_of(without))
    steps = [line for line in timeless(tmp_path / "poisoned") if line["kind"] == "step"]
    assert steps == [line for line in timeless(tmp_path / "without") if line["kind"] == "step"]
    (back,) = [line for line in read(tmp_path / "poisoned" / METRICS) if line["kind"] == "guard"]
    assert (back["action"], back["step"], back["failed_at"], back["indices"]) == ("return", 4, 8, [40, 64])


@pytest.mark.row("C8")
def test_a_run_killed_after_it_went_back_takes_the_same_decisions_again(plan: TrainPlan, tmp_path: Path) -> None:
    def bad(parts: Parts) -> Parts:
        poison(parts, lambda: 5 < rows_taken(parts, plan) <= 5 + PATIENCE)
        return parts

    whole = train_small(plan, tmp_path / "whole", bad(small_parts(plan, tmp_path / "whole")))
    for cut in (6, 9, 14, 16):  # in the streak; after the return; after the next checkpoint
        folder = tmp_path / str(cut)
        parts = bad(small_parts(plan, folder))
        parts.stream = DiesAfter(plan, parts.world, cut)
        with pytest.raises(Killed):
            train_small(plan, folder, parts)
        again = train_small(plan, folder, bad(small_parts(plan, folder)))
        assert_equal_bits(tensors_of(again), tensors_of(whole))
        assert again.guard == whole.guard
        assert timeless(folder) == timeless(tmp_path / "whole")


@pytest.mark.row("C7")
def test_after_two_returns_the_third_failure_stops_the_run(plan: TrainPlan, tmp_path: Path) -> None:
    parts = small_parts(plan, tmp_path)
    poison(parts, lambda: parts.step >= 5)
    train_small(plan, tmp_path, parts)
    assert (parts.leaving, parts.step, parts.saved) == ("diverged", 8, 8)
    assert parts.guard.left_out == [(5, 8), (8, 11)]
    message = diverged(plan, parts).message
    assert "E501 loss not finite at step 8 (x3). Last good: step 5" in message
    assert "2 returns to an earlier checkpoint did not help" in message
    assert protocol.newest(tmp_path / "checkpoints", pytest.fail) is not None


@pytest.mark.row("C7")
def test_a_fault_that_does_not_repeat_is_told_apart(plan: TrainPlan, tmp_path: Path) -> None:
    parts = small_parts(plan, tmp_path)
    times = iter([True])
    poison(parts, lambda: parts.step == 5 and next(times, False))
    train_small(plan, tmp_path, parts)
    (line,) = [line for line in read(tmp_path / METRICS) if line["kind"] == "guard"]
    assert (line["action"], line["step"], line["repeats"]) == ("skip", 6, False)
    assert (parts.step, parts.updates) == (12, 11)
