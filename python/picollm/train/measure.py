"""How fast this machine trains this plan: a few throw-away steps, for `plan --measure` and for horizons of time."""

import importlib.util
import math
import shutil
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from picollm.errors import UsageError
from picollm.loader.batch import Batch
from picollm.loader.stream import Stream
from picollm.model import fp8
from picollm.model.counts import flops_per_token
from picollm.model.init import build
from picollm.model.roles import roles
from picollm.optim.sharded import Optimizer
from picollm.plan.measured import Measured
from picollm.plan.resolve import EVAL_SHARE, VAL_MIN, VAL_SHARE
from picollm.plan.schedule import rates_at
from picollm.plan.trainplan import TrainPlan
from picollm.runtime.device import peak_memory, synchronise
from picollm.runtime.dist import World
from picollm.runtime.precision import compute_dtype
from picollm.train.kernels import attention_of
from picollm.train.state import Parts
from picollm.train.state import Stream as RowStream
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


def build_parts(plan: TrainPlan, world: World, stream: RowStream | None = None) -> Parts:
    """Model with its initial weights, optimizer with its state, rows from the start. Equal on every rank."""
    attention = attention_of(plan, world)
    model = build(plan.model, plan.seed, world.device, compute_dtype(plan.dtype), attend=attention.make())
    model.recompute = plan.recompute
    obstacle = compile_obstacle(world.device) if plan.compile else None
    if plan.fp8:
        if obstacle:
            raise UsageError(
                f"E302 fp8 needs --compile, and there is {obstacle}", hint="install it, or leave --fp8 out"
            )
        fp8.enable(model)
    if plan.compile and obstacle is None:
        torch.use_deterministic_algorithms(world.device.type == "cpu")  # the compiler's own choices too
        model.compile(dynamic=False, fullgraph=True)
    optimizer = Optimizer(model, roles(model), plan.optim, world)
    return Parts(model, optimizer, stream or open_stream(plan, world), world, attention=attention)


class RandomRows:
    """Rows of the plan's shape for steps that are only timed: no shards are asked."""

    def __init__(self, plan: TrainPlan, world: World) -> None:
        self.plan, self.device = plan, world.device
        self.generator = torch.Generator().manual_seed(plan.seed + world.rank)

    def next_step(self) -> list[Batch]:
        return [self.batch() for _ in range(self.plan.micro_steps)]

    def batch(self) -> Batch:
        size = (self.plan.device_batch, self.plan.seq_len + 1)
        ids = torch.randint(self.plan.model.vocab_size, size, generator=self.generator).to(self.device)
        return Batch(ids[:, :-1].int(), ids[:, 1:].contiguous())

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class Timed(NamedTuple):
    """Seconds of a step and, of these, seconds until its rows were there; of the slowest rank."""

    seconds: float
    waited: float


def timed_steps(plan: TrainPlan, parts: Parts, started: float, most: float) -> list[Timed]:
    """STEPS throw-away steps, the first WARM of which are left out; fewer once `most` seconds since `started` are over.

    All ranks must call this; all get the same figures.
    """
    found: list[Timed] = []
    for _ in range(STEPS):
        start = time.monotonic()
        batches = parts.stream.next_step()
        waited = time.monotonic() - start
        update(parts, batches, rates_at(0, plan.schedule))
        synchronise(parts.world.device)
        now = time.monotonic()
        own = torch.tensor([now - start, waited, now - started], dtype=torch.float64, device=parts.world.device)
        seconds, waited, total = parts.world.max_(own).tolist()
        found.append(Timed(seconds, waited))
        if total > most and len(found) > WARM:
            break
    return found[WARM:] or found


def measure(plan: TrainPlan, world: World, peak: float) -> Measured:
    """Eight real steps of `plan`, after two to warm up, and a part of a validation. `peak`: FLOP/s of one device.

    Rows come from the plan's shards where it has any that fit it, else they are random. All ranks must call this; all
    get the same figures. What it trains is thrown away.
    """
    real = plan.data is not None and plan.data.vocab_size == plan.model.vocab_size and plan.data.train_tokens > 0
    parts = build_parts(plan, world, None if real else RandomRows(plan, world))
    try:
        steps = timed_steps(plan, parts, time.monotonic(), math.inf)
        validating = validation_seconds(plan, parts)
    finally:
        parts.stream.close()
    held = torch.tensor(peak_memory(world.device), dtype=torch.float64, device=world.device)
    step = statistics.median(one.seconds for one in steps)
    flops = plan.tokens_per_step * flops_per_token(plan.model) / step
    return Measured(
        step_seconds=tuple(one.seconds for one in steps),
        validation_seconds=validating,
        waiting=statistics.median(one.waited / one.seconds for one in steps),
        peak_memory=int(world.max_(held)),
        mfu=flops / (world.size * peak) if peak else None,
        rows=f"shards {plan.data.name}" if real and plan.data else "random rows (no shards of this vocabulary)",
    )


@torch.no_grad()
def validation_seconds(plan: TrainPlan, parts: Parts) -> float:
    """Seconds that one validation will take, from the faster of two passes over one micro-batch."""
    batch = RandomRows(plan, parts.world).batch()
    best = math.inf
    for _ in range(2):
        start = time.monotonic()
        parts.model.token_losses(batch.inputs, batch.targets)
        synchronise(parts.world.device)
        best = min(best, time.monotonic() - start)
    slowest = parts.world.max_(torch.tensor(best, dtype=torch.float64, device=parts.world.device))
    return float(slowest) * plan.val_tokens / (batch.targets.numel() * parts.world.size)


def flops_rate(plan: TrainPlan, world: World, minutes: float) -> float:
    """FLOP/s of all ranks together over about ten steps, with the time that validation will take counted in.

    All ranks must call this; all get the same figure. What it trains is thrown away. The time spent here is taken
    off, so that measuring and training together take the minutes that were asked for.
    """
    started = time.monotonic()
    budget = 60 * minutes
    parts = build_parts(plan, world)
    try:
        steps = timed_steps(plan, parts, started, MOST * budget)
    finally:
        parts.stream.close()
    rate = plan.tokens_per_step * flops_per_token(plan.model) / statistics.median(one.seconds for one in steps)
    left = 1 - float(world.max_(torch.tensor(time.monotonic() - started, dtype=torch.float64))) / budget
    if left <= 0:
        raise UsageError(f"{minutes:g} minutes are over after {len(steps)} steps of measuring", hint="more minutes")
    return rate * training_share(left, EVALS * VAL_MIN * flops_per_token(plan.model) / 3 / rate / budget)


def training_share(left: float, validating: float) -> float:
    """What of the time is training, out of `left` for training and validation. `validating`: the least that the
    validations take, since a short run validates on more than 1/64 of its tokens."""
    return max(LEAST_TRAINING * left, min(left / (1 + EVAL_COST), left - validating))
