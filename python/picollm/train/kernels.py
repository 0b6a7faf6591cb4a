"""What the machine runs a plan with: its attention kernels, and its compiler, or eager where that fails."""

import time
from typing import Any

import torch

from picollm.errors import UsageError
from picollm.layout import cache_dir
from picollm.model.kernels.choose import Choice, choose
from picollm.plan.trainplan import TrainPlan
from picollm.runtime import failpoint
from picollm.runtime.dist import World
from picollm.runtime.pace import duration
from picollm.runtime.precision import compute_dtype
from picollm.runtime.runlog import RunLog
from picollm.runtime.together import on_rank_zero
from picollm.train.state import Parts

WORDS = 200  # letters of what a compiler says


def attention_of(plan: TrainPlan, world: World) -> Choice:
    """The attention kernels of this plan here: tried by rank 0, the same on every rank."""

    def chosen() -> dict[str, Any]:
        dtype = compute_dtype(plan.dtype)
        return choose(plan.model, world.device, dtype, cache_dir(), compiled=plan.compile).to_json()

    return Choice(**on_rank_zero(world, chosen))


def warm_up(plan: TrainPlan, parts: Parts, log: RunLog) -> None:
    """Compile on a row of zeros, before the first step: nothing of the run changes, and its wait has a name.

    Where compiling fails on any rank all run eagerly and the log says why; only fp8 insists on it (E302).
    """
    if not compiled(parts):
        return
    log.say("compiling: this takes a minute or two")
    start = time.monotonic()
    shape = (plan.device_batch, plan.seq_len)
    rows = torch.zeros(shape, dtype=torch.int32, device=parts.world.device)
    why = ""
    failpoint.reach("train.compiling")
    try:
        parts.model(rows, rows.long()).backward()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a compiler may raise anything; eager runs on, or fails with the same
        why = " ".join([f"{type(error).__name__}:", *str(error).split()])[:WORDS]
    parts.optimizer.zero_grad()
    found = next((reason for reason in parts.world.gather(why) if reason), None)
    if found is None:
        log.say(f"compiled in {duration(time.monotonic() - start)}")
        return
    if plan.fp8:
        raise UsageError(f"E302 fp8 needs --compile, which failed: {found}", hint="leave --fp8 out")
    parts.model._compiled_call_impl = None
    log.warn("W304", f"torch.compile failed ({found}): running eager")


def compiled(parts: Parts) -> bool:
    return parts.model._compiled_call_impl is not None
