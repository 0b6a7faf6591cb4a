"""The loop: rows in, updates out, and what is due between them."""

import time
from contextlib import nullcontext
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path

from picollm.ckpt import protocol
from picollm.errors import CheckpointError, DivergedError
from picollm.model.counts import flops_per_token
from picollm.plan.rates import MUON_LR
from picollm.plan.schedule import Rates, rates_at
from picollm.plan.trainplan import TrainPlan
from picollm.plan.warnings import starving
from picollm.runtime.device import peak_memory
from picollm.runtime.pace import duration
from picollm.runtime.runlog import RunLog
from picollm.runtime.together import on_rank_zero
from picollm.train.due import clock, mark, renew_log, write_best
from picollm.train.guard import MOST_RETURNS, PATIENCE, Verdict
from picollm.train.state import Parts, restore
from picollm.train.step import Fault, Outcome, update


def pretrain(plan: TrainPlan, parts: Parts, log: RunLog) -> Parts:
    """Carry `parts` from the step they stand at to the last step of the plan, or to where `parts.leaving` says why not.

    Whatever ends the loop, the state at its end is saved.
    """
    parts.session_start = parts.last_save = time.monotonic()
    mark(plan, parts, log)  # at step 0, and after a stop that came between a step and its evaluation
    while parts.step < plan.steps and parts.leaving is None:
        clock(plan, parts)
        start = time.perf_counter()
        batches = parts.next_rows()
        waited = time.perf_counter() - start
        rates = rates_at(parts.step, plan.schedule)
        with parts.world.in_step() if parts.session else nullcontext():  # the first one compiles
            outcome = update(parts, batches, rates)
        note(plan, parts, log, outcome, rates, seconds=time.perf_counter() - start, waited=waited)
        if parts.guard.exhausted and parts.leaving is None:
            go_back(plan, parts, log, outcome)
        mark(plan, parts, log)
    return parts


def note(
    plan: TrainPlan, parts: Parts, log: RunLog, outcome: Outcome, rates: Rates, *, seconds: float, waited: float
) -> None:
    """One `step` line, one look at the progress line, one `guard` line if the step was skipped."""
    flags = [name for name, holds in (
        ("compile", plan.compile and parts.session == 1),
        ("warm", parts.pace.warming),
        ("after_eval", parts.evaluated == parts.step - 1),
    ) if holds]  # fmt: skip
    if (waiting := parts.pace.step(seconds, flags, waited)) is not None:
        log.warn("W501", starving(plan, waiting))
    tokens_per_second = plan.tokens_per_step / seconds
    mfu = share_of_peak(plan, parts, tokens_per_second)
    log.record(
        "step",
        step=parts.step,
        updates=parts.updates,
        tokens=parts.step * plan.tokens_per_step,
        loss=outcome.loss,
        loss_hex=outcome.loss.hex(),
        loss_ema=parts.meters.add(outcome.loss),
        lr_mult=rates.lr,
        momentum=rates.momentum,
        wd=rates.decay,
        grad_norm=outcome.grad_norm,
        n_valid=outcome.n_valid,
        dt_ms=round(1000 * seconds, 3),
        data_wait_ms=round(1000 * waited, 3),
        opt_ms=round(outcome.opt_ms, 3),
        tok_s=round(tokens_per_second, 1),
        mfu_bf16=None if mfu is None else round(mfu, 5),
        mem_peak=peak_memory(parts.world.device),
        flags=flags,
    )
    log.progress(parts.step, line(plan, parts, tokens_per_second, mfu, waited / seconds), last=parts.step == plan.steps)
    if outcome.verdict is not Verdict.APPLY:
        end = parts.guard.taken(parts.step)
        indices = [(end - 1) * plan.rows_per_step, end * plan.rows_per_step]
        reason = outcome.verdict.value
        fault = asdict(outcome.fault) if outcome.fault else {}
        log.record("guard", action="skip", step=parts.step, indices=indices, reason=reason, **fault)
        log.say(f"warning: step {parts.step:,} skipped ({reason}): loss {outcome.loss:.4g}, "
                f"gradient norm {outcome.grad_norm:.4g}{said(outcome.fault, parts.world.size)}")  # fmt: skip


def said(fault: Fault | None, ranks: int) -> str:
    """` in blocks.1.mlp.up.weight on rank 1; the same again on a second try`"""
    if fault is None:
        return ""
    where = f" in {', '.join(fault.tensors)}" if fault.tensors else ""
    if ranks > 1 and fault.ranks:
        where += f" on rank {', '.join(map(str, fault.ranks))}"
    again = (
        "the same again on a second try" if fault.repeats else "finite on a second try: a device failed for a moment"
    )
    return f"{where}; {again}"


def go_back(plan: TrainPlan, parts: Parts, log: RunLog, outcome: Outcome) -> None:
    """After bad steps in a row: back to the last checkpoint, without their rows; or `parts.leaving` says diverged.

    All ranks have judged the same numbers, so all are here; which checkpoint is whole is rank 0's word.
    """
    failed, step = parts.guard, parts.step
    path = last_checkpoint(parts, log) if failed.may_return else None
    if path is None:
        parts.leaving = "diverged"
        return
    restore(parts, path)
    parts.guard.after_return(failed, step)
    log.rewind(parts.step)
    renew_log(log, parts, path)
    write_best(parts)
    start, end = parts.guard.left_out[-1]
    log.record("guard", action="return", step=parts.step, failed_at=step, reason=outcome.verdict.value,
               indices=[start * plan.rows_per_step, end * plan.rows_per_step], returns=parts.guard.returns)  # fmt: skip
    log.say(f"warning: {PATIENCE} bad steps in a row at step {step:,}: back to step {parts.step:,}, the rows of those "
            f"steps are left out (return {parts.guard.returns} of {MOST_RETURNS})")  # fmt: skip


def last_checkpoint(parts: Parts, log: RunLog) -> Path | None:
    """The newest whole checkpoint of the run, by rank 0's word. None: there is none, or none is whole."""
    home = parts.home
    if home is None:
        return None

    def found() -> str | None:
        try:
            newest = protocol.newest(home.checkpoints, log.say)
        except CheckpointError:
            return None
        return str(newest) if newest else None

    path: str | None = on_rank_zero(parts.world, found)
    return Path(path) if path else None


def share_of_peak(plan: TrainPlan, parts: Parts, tokens_per_second: float) -> float | None:
    """Model FLOPs over the peak of all devices; None while the peak is unknown."""
    if not parts.peak_flops:
        return None
    return flops_per_token(plan.model) * tokens_per_second / (parts.world.size * parts.peak_flops)


def line(plan: TrainPlan, parts: Parts, tokens_per_second: float, mfu: float | None, waiting: float) -> str:
    """`step 21/5,000 · loss 3.912 · val 1.402 bpb · 2.84 s/step · 11,538 tok/s · MFU 41 % · data 0 % · ETA …`"""
    facts = [f"step {parts.step:,}/{plan.steps:,}", f"loss {parts.meters.ema:.4f}"]
    if parts.best:
        facts.append(f"val {parts.best['bpb']:.4f} bpb")
    facts += [f"{parts.pace.seconds_per_step or 0:.3g} s/step", f"{tokens_per_second:,.0f} tok/s"]
    if mfu is not None:
        facts.append(f"MFU {100 * mfu:.0f} %")
    facts.append(f"data {100 * waiting:.0f} %")
    if (eta := time_left(plan, parts)) is not None and parts.step < plan.steps:
        end = datetime.now() + timedelta(seconds=eta)
        facts.append(f"ETA {duration(eta)} ({end:%H:%M})")
        if plan.estimate.price:
            spent = parts.step * (parts.pace.seconds_per_step or 0) / 3600 * parts.world.size * plan.estimate.price
            facts.append(f"${spent:.2f} of ${spent + eta / 3600 * parts.world.size * plan.estimate.price:.2f}")
    return " · ".join(facts)


def time_left(plan: TrainPlan, parts: Parts) -> float | None:
    left = plan.steps - parts.step
    saves = left // int(plan.save_every.value) if plan.save_every.unit == "steps" else 0
    return parts.pace.eta(left, evals_left=-(-left // plan.eval_every), saves_left=saves + 1)


def diverged(plan: TrainPlan, parts: Parts) -> DivergedError:
    """E501: where it happened, what is left, and a smaller rate to try."""
    rate = min(MUON_LR, float(plan.request.get("learning_rate") or MUON_LR) / 5)
    kept = f"; saved as step {parts.saved}" if parts.saved == parts.step else ""
    if parts.guard.returns:
        kept += f"; {parts.guard.returns} returns to an earlier checkpoint did not help"
    what = "loss spiked" if parts.guard.cause == Verdict.SKIP_SPIKE else "loss not finite"
    return DivergedError(
        f"E501 {what} at step {parts.step} (x{PATIENCE}). Last good: step {parts.guard.last_good}{kept}",
        hint=f"try --learning-rate {rate:.2g} under another --name",
    )
