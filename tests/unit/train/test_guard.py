import math
import random

import pytest

from picollm.train.guard import PATIENCE, WINDOW, Guard, Verdict
from picollm.train.meters import Meters


def trained(steps: int, seed: int = 1) -> Guard:
    guard = Guard()
    rng = random.Random(seed)
    for step in range(1, steps + 1):
        guard.note(Verdict.APPLY, 3.0 + rng.gauss(0, 0.1), step)
    return guard


@pytest.mark.row("C7")
@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (3.0, math.nan), (3.0, math.inf)])
def test_a_step_with_any_number_that_is_not_finite_is_skipped(loss: float, norm: float) -> None:
    assert Guard().judge(loss, norm) is Verdict.SKIP_NONFINITE
    assert trained(WINDOW).judge(loss, norm) is Verdict.SKIP_NONFINITE


@pytest.mark.row("C8")
def test_a_spike_is_called_only_against_a_full_window_and_only_upwards() -> None:
    assert trained(WINDOW - 1).judge(1e4, 1.0) is Verdict.APPLY
    guard = trained(WINDOW)
    assert guard.judge(1e4, 1.0) is Verdict.SKIP_SPIKE
    assert guard.judge(0.0, 1.0) is Verdict.APPLY
    assert guard.judge(3.2, 1.0) is Verdict.APPLY


def test_a_run_of_equal_losses_has_no_spread_and_so_no_spikes() -> None:
    guard = Guard()
    for step in range(WINDOW):
        guard.note(Verdict.APPLY, 2.0, step)
    assert guard.judge(2.1, 1.0) is Verdict.APPLY


def test_a_number_that_is_not_finite_never_enters_the_window() -> None:
    guard = trained(WINDOW)
    guard.note(Verdict.SKIP_NONFINITE, math.nan, WINDOW + 1)
    assert all(math.isfinite(loss) for loss in guard.losses)
    assert guard.judge(1e4, 1.0) is Verdict.SKIP_SPIKE


def test_three_steps_in_a_row_exhaust_the_guard_and_a_good_one_forgives() -> None:
    guard = Guard()
    for step in range(1, PATIENCE):
        guard.note(Verdict.SKIP_NONFINITE, math.nan, step)
    assert not guard.exhausted
    guard.note(Verdict.APPLY, 3.0, PATIENCE)
    for step in range(PATIENCE + 1, 2 * PATIENCE + 1):
        guard.note(Verdict.SKIP_NONFINITE, math.nan, step)
    assert guard.exhausted
    assert guard.last_good == PATIENCE


@pytest.mark.row("C8")
def test_a_restored_guard_decides_like_the_one_that_was_saved() -> None:
    guard = trained(WINDOW + 7)
    guard.note(Verdict.SKIP_SPIKE, 9.0, WINDOW + 8)
    guard.left_out, guard.returns, guard.failed_at = [(3, 6)], 1, 40
    again = Guard.from_json(guard.to_json())
    assert again == guard
    for loss in (3.0, 3.4, 3.6, 3.9, 5.0, math.nan):
        assert again.judge(loss, 1.0) is guard.judge(loss, 1.0)


def test_the_smoothed_loss_starts_at_the_first_loss_and_survives_a_round_trip() -> None:
    meters = Meters()
    assert math.isnan(meters.ema)
    assert meters.add(4.0) == pytest.approx(4.0)
    meters.add(math.nan)
    assert 2.0 < meters.add(2.0) < 4.0
    assert Meters.from_json(meters.to_json()) == meters


@pytest.mark.row("C8")
def test_spikes_in_a_row_exhaust_the_guard_as_well() -> None:
    guard = trained(WINDOW)
    for step in range(WINDOW + 1, WINDOW + 1 + PATIENCE):
        guard.note(guard.judge(1e4, 1.0), 1e4, step)
    assert guard.exhausted
    assert guard.cause == Verdict.SKIP_SPIKE


def test_rows_left_out_shift_what_the_stream_has_handed_out() -> None:
    guard = Guard(left_out=[(5, 8), (11, 14)])
    assert [guard.taken(step) for step in (4, 5, 6, 8, 9)] == [4, 5, 9, 11, 15]
    assert [taken for taken in range(16) if guard.leaves_out(taken)] == [5, 6, 7, 11, 12, 13]


def test_a_failure_long_after_the_last_return_has_another_cause() -> None:
    guard = Guard(returns=2, failed_at=10)
    guard.note(Verdict.APPLY, 3.0, 10 + WINDOW - 1)
    assert not guard.may_return
    guard.note(Verdict.APPLY, 3.0, 10 + WINDOW)
    assert guard.may_return
