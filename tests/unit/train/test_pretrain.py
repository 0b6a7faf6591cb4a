import copy
import json
import random
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.unit.train.small import (
    PLACES,
    assert_equal_bits,
    die_training,
    small_parts,
    small_plan,
    tensors_of,
    timeless,
    train_small,
)

from picollm.ckpt import protocol
from picollm.errors import FingerprintMismatch, TokenizerMismatch
from picollm.plan.request import Interval
from picollm.plan.schedule import rates_at
from picollm.plan.trainplan import TrainPlan
from picollm.runtime.runlog import METRICS, read
from picollm.train.guard import Verdict
from picollm.train.state import Parts
from picollm.train.step import update


@pytest.fixture(scope="module")
def plan() -> TrainPlan:
    return small_plan()


@pytest.fixture(scope="module")
def unbroken(plan: TrainPlan, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Parts]:
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, train_small(plan, folder)


def test_the_loss_falls_and_every_step_leaves_one_line(unbroken: tuple[Path, Parts], plan: TrainPlan) -> None:
    steps = [line for line in read(unbroken[0] / METRICS) if line["kind"] == "step"]
    assert [line["step"] for line in steps] == list(range(1, plan.steps + 1))
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.3
    assert float.fromhex(steps[3]["loss_hex"]) == steps[3]["loss"]
    assert steps[-1]["updates"] == plan.steps
    assert {"loss_ema", "lr_mult", "momentum", "wd", "grad_norm", "n_valid", "dt_ms", "data_wait_ms", "opt_ms",
            "tok_s", "mfu_bf16", "mem_peak", "flags", "tokens"} <= set(steps[0])  # fmt: skip


def test_validation_comes_at_the_start_at_every_few_steps_and_at_the_end(unbroken: tuple[Path, Parts]) -> None:
    evals = [line for line in read(unbroken[0] / METRICS) if line["kind"] == "eval"]
    assert [line["step"] for line in evals] == [0, 5, 10, 12]
    assert evals[-1]["bpb"] < evals[0]["bpb"]
    best = json.loads((unbroken[0] / "best.json").read_text())
    assert best["bpb"] == min(line["bpb"] for line in evals)


@pytest.mark.row("C1")
def test_a_run_cut_anywhere_ends_in_the_same_bits_and_the_same_log(
    unbroken: tuple[Path, Parts], plan: TrainPlan, tmp_path: Path
) -> None:
    for cut in (1, 4, 5, 9, 11):
        folder = tmp_path / str(cut)
        first = train_small(replace(plan, stop_after=Interval(cut, "steps")), folder)
        assert (first.step, first.leaving) == (cut, "stop-after")
        second = train_small(plan, folder)
        assert_equal_bits(tensors_of(second), tensors_of(unbroken[1]))
        extra = {cut} - {4, 8, 12}
        lines = [line for line in timeless(folder) if not (line["kind"] == "save" and line["step"] in extra)]
        assert lines == timeless(unbroken[0])


@pytest.mark.row("C1")
def test_a_run_killed_at_random_steps_and_inside_saves_ends_in_the_same_bits(
    unbroken: tuple[Path, Parts], plan: TrainPlan, tmp_path: Path
) -> None:
    rng = random.Random(15)
    kills = 0
    while kills < 5:
        kills += die_training(plan, tmp_path, at=rng.randrange(1, 9), place=rng.choice(PLACES))
    final = train_small(plan, tmp_path)
    assert_equal_bits(tensors_of(final), tensors_of(unbroken[1]))
    assert timeless(tmp_path) == timeless(unbroken[0])


def test_a_resumed_checkpoint_has_the_bytes_of_an_unbroken_one(
    unbroken: tuple[Path, Parts], plan: TrainPlan, tmp_path: Path
) -> None:
    train_small(replace(plan, stop_after=Interval(4, "steps")), tmp_path)
    train_small(plan, tmp_path)
    for path in protocol.candidates(unbroken[0] / "checkpoints"):
        assert protocol.verify(tmp_path / "checkpoints" / path.name) == protocol.verify(path)


def test_only_the_newest_checkpoints_and_the_best_are_kept(plan: TrainPlan, tmp_path: Path) -> None:
    train_small(replace(plan, save_every=Interval(1, "steps"), keep=2), tmp_path)
    assert [path.name[-2:] for path in protocol.candidates(tmp_path / "checkpoints")] == ["12", "11"]


def test_the_loss_is_the_mean_over_valid_targets_however_the_rows_are_cut(plan: TrainPlan) -> None:
    losses = []
    for rows in (1, 2, 3, 8):
        parts = small_parts(small_plan(device_batch_size=rows, dtype="fp64"))
        outcomes = [update(parts, parts.stream.next_step(), rates_at(step, plan.schedule)) for step in range(3)]
        losses.append([outcome.loss for outcome in outcomes])
        assert outcomes[0].n_valid == sum(16 - i % 5 for i in range(8))
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], rel=1e-12)


@pytest.mark.row("C7")
def test_a_gradient_that_is_not_finite_changes_nothing(plan: TrainPlan) -> None:
    parts = small_parts(plan)
    update(parts, parts.stream.next_step(), rates_at(0, plan.schedule))
    before = tensors_of(parts)
    hook = parts.model.lm_head.weight.register_hook(lambda grad: grad * float("nan"))
    outcome = update(parts, parts.stream.next_step(), rates_at(1, plan.schedule))
    hook.remove()
    assert outcome.verdict is Verdict.SKIP_NONFINITE
    assert (parts.step, parts.updates) == (2, 1)
    assert_equal_bits(before, tensors_of(parts))


@pytest.mark.row("C4")
def test_a_signal_stops_at_the_next_boundary_with_everything_saved(
    unbroken: tuple[Path, Parts], plan: TrainPlan, tmp_path: Path
) -> None:
    parts = small_parts(plan, tmp_path)
    parts.model.lm_head.weight.register_hook(
        lambda grad: parts.stop.handle(signal.SIGUSR1, None) if parts.step == 6 else None
    )
    train_small(plan, tmp_path, parts)
    assert (parts.step, parts.leaving, parts.saved, parts.stop.code) == (7, "signal", 7, 75)
    assert_equal_bits(tensors_of(train_small(plan, tmp_path)), tensors_of(unbroken[1]))


@pytest.mark.row("C12")
def test_evaluation_draws_nothing_that_training_uses(
    unbroken: tuple[Path, Parts], plan: TrainPlan, tmp_path: Path
) -> None:
    parts = small_parts(plan, tmp_path)
    plain = parts.evaluate
    assert plain is not None

    def greedy() -> object:
        torch.randn(100)
        random.random()
        return plain()

    parts.evaluate = greedy  # type: ignore[assignment]
    train_small(plan, tmp_path, parts)
    assert_equal_bits(tensors_of(parts), tensors_of(unbroken[1]))


@pytest.mark.row("C9")
def test_a_failed_save_is_said_and_training_goes_on(
    plan: TrainPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unbroken: tuple[Path, Parts]
) -> None:
    monkeypatch.setattr("picollm.runtime.failpoint.passages", copy.copy(__import__("collections").Counter()))
    monkeypatch.setenv("PICOLLM_FAIL", "ckpt.synced=ENOSPC@1")
    final = train_small(plan, tmp_path)
    assert_equal_bits(tensors_of(final), tensors_of(unbroken[1]))
    assert [path.name[-2:] for path in protocol.candidates(tmp_path / "checkpoints")] == ["12", "08"]
    assert "not saved at step 4" in (tmp_path / "train.log").read_text()


@pytest.mark.row("L4", "C11")
@pytest.mark.parametrize(
    ("field", "kind"), [("shards_sha", FingerprintMismatch), ("tokenizer_sha256", TokenizerMismatch)]
)
def test_a_checkpoint_of_other_data_is_refused_with_both_hashes(
    plan: TrainPlan, tmp_path: Path, field: str, kind: type[Exception]
) -> None:
    train_small(replace(plan, stop_after=Interval(2, "steps")), tmp_path)
    parts = small_parts(plan, tmp_path)
    setattr(parts.home, field, "b" * 64)
    with pytest.raises(kind, match="b" * 64):
        train_small(plan, tmp_path, parts)
