"""What happens between steps: evaluate, save, stop, tidy up."""

import gc
import time
from pathlib import Path

import torch

from picollm.ckpt import protocol
from picollm.errors import CheckError, PicoError
from picollm.evals.result import BitsPerByte
from picollm.plan.trainplan import TrainPlan
from picollm.runtime import durable
from picollm.runtime.runlog import RunLog
from picollm.train.meters import WORSE_EVALS
from picollm.train.state import Parts, contents

COLLECT_EVERY = 5000  # steps between garbage collections when no evaluation comes


class Interrupted(Exception):
    """A signal came during an evaluation; all ranks have agreed to leave it."""


def mark(plan: TrainPlan, parts: Parts, log: RunLog) -> None:
    """Do what is due at the step `parts` stands at, the evaluation first, so that a save knows its result."""
    if evaluation_due(plan, parts):
        try:
            evaluate(plan, parts, log)
        except Interrupted:
            parts.leaving = "signal"
    if save_due(plan, parts):
        save(plan, parts, log)
    if parts.session == 1 or parts.step % COLLECT_EVERY == 0:
        freeze_garbage()


def evaluation_due(plan: TrainPlan, parts: Parts) -> bool:
    """At step 0, every `eval_every` steps and at the end; not on the way out, and never twice for one step."""
    if parts.evaluate is None or parts.leaving or parts.evaluated == parts.step:
        return False
    return parts.step % plan.eval_every == 0 or parts.step == plan.steps


def evaluate(plan: TrainPlan, parts: Parts, log: RunLog) -> None:
    """Validate, log, remember the best. Draws nothing from any generator that training uses."""
    assert parts.evaluate is not None
    start = time.monotonic()
    parts.model.eval()
    result = parts.evaluate()
    parts.model.train()
    seconds = time.monotonic() - start
    parts.pace.spent("eval", seconds)
    parts.evaluated = parts.step
    fields = result.to_json()
    log.record("eval", step=parts.step, name="val", **fields, seconds=round(seconds, 3), dtype=plan.dtype)
    log.say(f"step {parts.step:,}: val {result.bpb:.4f} bits per byte ({result.tokens:,} tokens, {seconds:.1f} s)")
    grown = parts.meters.validated(note_best(parts, result))
    if grown and parts.best is not None:
        gap = result.loss - parts.meters.ema
        text = f"val worse for {WORSE_EVALS} evals while train improves (gap {gap:.2f}): best checkpoint is step"
        log.record("warning", step=parts.step, code="W403", gap=gap, best=parts.best["step"])
        log.warn("W403", f"{text} {parts.best['step']:,}")
    gc.collect()


def note_best(parts: Parts, result: BitsPerByte) -> bool:
    """Remember a result if it is the best so far; whether it is."""
    best = parts.best is None or result.bpb < float.fromhex(parts.best["bpb_hex"])
    if best:
        parts.best = {"step": parts.step, "bpb": result.bpb, "bpb_hex": result.bpb.hex(), "set_hash": result.set_hash}
        write_best(parts)
    return best


def write_best(parts: Parts) -> None:
    """`best.json` of the run; a checkpoint of that step, where there is one, is never pruned."""
    if parts.home and parts.world.rank == 0 and parts.best:
        durable.write_json(parts.home.directory / "best.json", {"v": 1, **parts.best})


def save_due(plan: TrainPlan, parts: Parts) -> bool:
    if parts.home is None or parts.saved == parts.step:
        return False
    if parts.step == plan.steps or parts.leaving is not None:
        return True
    if parts.step == 0 or parts.guard.streak:  # bad steps: what one would go back to must lie before them
        return False
    if parts.save_due:
        return True
    return plan.save_every.unit == "steps" and parts.step % int(plan.save_every.value) == 0


def clock(plan: TrainPlan, parts: Parts) -> None:
    """Rank 0's wishes for the coming step: save because time is up, leave because the session's cap is reached.

    The step's own reduction spreads them, so that all ranks act at the same boundary.
    """
    if parts.world.rank != 0:
        return
    now = time.monotonic()
    if plan.save_every.unit == "seconds":
        parts.save_due = now - parts.last_save >= plan.save_every.value
    if (cap := plan.stop_after) is not None:
        hours = (now - parts.session_start) / 3600
        dollars = hours * parts.world.size * plan.estimate.price
        spent = {"steps": parts.session + 1.0, "seconds": hours * 3600, "usd": dollars}[cap.unit]
        parts.cap_reached = spent >= cap.value


def save(plan: TrainPlan, parts: Parts, log: RunLog) -> None:
    """Save and prune. A save that fails is said and tried again at the next due step; only the last one is fatal."""
    home = parts.home
    assert home is not None
    log.sync()
    check_ranks(parts)
    try:
        saved = protocol.save(home.checkpoints, contents(plan, parts), parts.world)
    except PicoError as error:
        if parts.step == plan.steps or parts.leaving in ("signal", "stop-after"):
            raise
        log.say(f"warning: not saved at step {parts.step:,}: {error.message}; training goes on")
        log.record("guard", action="save failed", step=parts.step, reason=error.message)
        return
    parts.saved, parts.save_due, parts.last_save = parts.step, False, time.monotonic()
    parts.stop.last_save = f"step {parts.step}"
    parts.pace.spent("save", saved.seconds)
    log_save(log, saved, parts.step)
    if parts.world.rank == 0:
        home.known.add(saved.path)
        protocol.prune(home.checkpoints, plan.keep, [parts.best["step"]] if parts.best else [], home.known)


def check_ranks(parts: Parts) -> None:
    """Raise unless all ranks hold the same weights, bit for bit: a difference is a bug or a broken device."""
    if parts.world.size == 1:
        return
    words = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums = [p.detach().view(words[p.element_size()]).sum(dtype=torch.int64) for p in parts.model.parameters()]
    least = parts.world.min_(torch.stack(sums))
    if bool((least != parts.world.max_(torch.stack(sums))).any()):
        raise CheckError(
            f"the ranks hold different weights at step {parts.step:,}: nothing was saved",
            hint="run again from the last checkpoint; if it comes back, a device is failing or this is a bug",
        )


def log_save(log: RunLog, saved: protocol.Saved, step: int) -> None:
    log.record("save", step=step, path=named(saved.path), bytes=saved.size, seconds=round(saved.seconds, 3),
               hash=saved.sha256)  # fmt: skip


def renew_log(log: RunLog, parts: Parts, path: Path) -> None:
    """Write the `save` line of the checkpoint a run resumes from again: the old one may have been lost to a kill."""
    manifest = protocol.verify(path, only=())
    size = sum(entry.size for entry in manifest.files.values())
    log_save(log, protocol.Saved(path, size, 0.0, manifest.sha256), parts.step)


def named(path: Path) -> str:
    """`checkpoints/step-…`: the same wherever the run lies."""
    return f"{path.parent.name}/{path.name}"


def freeze_garbage() -> None:
    """Collect once, then keep the collector from stopping the training for half a second at a time."""
    gc.collect()
    gc.freeze()
    gc.disable()


def thaw_garbage() -> None:
    gc.unfreeze()
    gc.enable()
