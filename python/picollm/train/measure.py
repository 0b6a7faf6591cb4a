"""How fast this machine trains this plan: a few throw-away steps, before a horizon of time becomes steps."""

import importlib.util
import shutil
import statistics
import time
from pathlib import Path

import torch

from picollm.errors import UsageError
from picollm.loader.stream import Stream
from picollm.model.counts import flops_per_token
from picollm.model.init import build
from picollm.model.roles import roles
from picollm.optim.sharded import Optimizer
from picollm.plan.resolve import EVAL_SHARE, VAL_MIN, VAL_SHARE
from picollm.plan.schedule import rates_at
from picollm.plan.trainplan import TrainPlan
from picollm.runtime.dist import World
from picollm.runtime.precision import compute_dtype
from picollm.train.state import Parts
from picollm.train.step import update
from picollm.train.validate import packing_of

STEPS = 10
WARM = 2  # of them, left out: first touches of memory
MOST = 0.05  # of the minutes, for measuring
EVALS = EVAL_SHARE + 1  # about as many validations in a run, forward only: a third of a step's arithmetic
EVAL_COST = EVALS / VAL_SHARE / 3  # of the training, where validation is 1/64 of the tokens
LEAST_TRAINING = 0.1  # of the time, however much validation would take


def open_stream(plan: TrainPlan, world: World) -> Stream:
    """The training rows of a plan, for this rank, from the first step on."""
    assert plan.data is not None
    return Stream(
        Path(plan.data.path),
        split="train",
        seq_len=plan.seq_len,
        batch_size=plan.device_batch,
        rows_per_step=plan.rows_per_step,
        rank=world.rank,
        world_size=world.size,
        seed=plan.seed,
        pack=packing_of(plan),
        threads=plan.workers,
        device=world.device,
        fingerprint=plan.data.fingerprint,
        tokenizer=plan.data.tokenizer_sha256,
    )


def compile_obstacle(device: torch.device) -> str | None:
    """Why torch.compile cannot work here, or None."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "no Triton"
    if device.type == "cpu" and not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        return "no C++ compiler"
    return None


def build_parts(plan: TrainPlan, world: World) -> Parts:
    """Model with its initial weights, optimizer with its state, rows from the start. Equal on every rank."""
    model = build(plan.model, plan.seed, world.device, compute_dtype(plan.dtype))
    if plan.compile and compile_obstacle(world.device) is None:
        model.compile(dynamic=False, fullgraph=True)
    optimizer = Optimizer(model, roles(model), plan.optim, world)
    return Parts(model, optimizer, open_stream(plan, world), world)


def flops_rate(plan: TrainPlan, world: World, minutes: float) -> float:
    """FLOP/s of all ranks together over about ten steps, with the time that validation will take counted in.

    All ranks must call this; all get the same figure. What it trains is thrown away. The time spent here is taken
    off, so that measuring and training together take the minutes that were asked for.
    """
    started = time.monotonic()
    budget = 60 * minutes
    parts = build_parts(plan, world)
    seconds: list[float] = []
    try:
        while len(seconds) < STEPS:
            start = time.monotonic()
            update(parts, parts.stream.next_step(), rates_at(0, plan.schedule))
            now = time.monotonic()
            slowest = torch.tensor([now - start, now - started], dtype=torch.float64, device=world.device)
            step, total = world.max_(slowest).tolist()
            seconds.append(step)
            if total > MOST * budget and len(seconds) > WARM:
                break
    finally:
        parts.stream.close()
    rate = plan.tokens_per_step * flops_per_token(plan.model) / statistics.median(seconds[WARM:] or seconds)
    left = 1 - float(world.max_(torch.tensor(time.monotonic() - started, dtype=torch.float64))) / budget
    if left <= 0:
        raise UsageError(f"{minutes:g} minutes are over after {len(seconds)} steps of measuring", hint="more minutes")
    return rate * training_share(left, EVALS * VAL_MIN * flops_per_token(plan.model) / 3 / rate / budget)


def training_share(left: float, validating: float) -> float:
    """What of the time is training, out of `left` for training and validation. `validating`: the least that the
    validations take, since a short run validates on more than 1/64 of its tokens."""
    return max(LEAST_TRAINING * left, min(left / (1 + EVAL_COST), left - validating))
