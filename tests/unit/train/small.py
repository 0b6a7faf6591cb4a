"""A run small enough for a unit test: 40,000 weights, rows made from their own number, resumable like the loader's."""

import os
import signal
from pathlib import Path
from typing import Any

import torch

from picollm.evals.result import BitsPerByte
from picollm.loader.batch import Batch
from picollm.model.init import build
from picollm.model.roles import roles
from picollm.optim.sharded import Optimizer
from picollm.plan.facts import DataFacts
from picollm.plan.request import Interval, TrainRequest
from picollm.plan.resolve import resolve
from picollm.plan.trainplan import TrainPlan
from picollm.runtime import rng
from picollm.runtime.dist import World
from picollm.runtime.machine import Machine
from picollm.runtime.precision import compute_dtype
from picollm.runtime.runlog import METRICS, TIME_FIELDS, RunLog, open_log, read
from picollm.train.due import renew_log
from picollm.train.opening import CHECKPOINTS, standing
from picollm.train.pretrain import pretrain
from picollm.train.state import Home, Parts, restore

VOCAB = 265
SEQ_LEN = 16
FACTS = DataFacts("small", "small", "f" * 64, "a" * 64, VOCAB, 1_000_000, 20_000)


def small_plan(**said: Any) -> TrainPlan:
    asked = {"depth": 2, "hidden_size": 32, "head_dim": 16, "max_seq_len": SEQ_LEN, "num_iterations": 12,
             "total_batch_size": 8 * SEQ_LEN, "device_batch_size": 4, "save_every": Interval(4, "steps"),
             "eval_every": 5, "learning_rate": 0.05, "name": "small"} | said  # fmt: skip
    return resolve(TrainRequest(**asked), Machine.cpu(1e10), FACTS).require()


class Rows:
    """Row i is a function of i. Some rows end early, so that targets are counted and not assumed."""

    def __init__(self, plan: TrainPlan, world: World) -> None:
        self.plan, self.world = plan, world
        self.rows = 0
        self.poison: dict[int, None] = {}

    def row(self, index: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(index)
        start = torch.randint(VOCAB, (1,), generator=generator)
        return (start + torch.arange(SEQ_LEN + 1) * (1 + index % 3)) % VOCAB

    def next_step(self) -> list[Batch]:
        B, G = self.plan.device_batch, self.plan.rows_per_step
        slots = self.world.size * B
        batches = []
        for first in range(0, G, slots):
            inputs = torch.zeros(B, SEQ_LEN, dtype=torch.int32)
            targets = torch.full((B, SEQ_LEN), -100)
            for slot in range(B):
                place = first + self.world.rank * B + slot
                if place < G:
                    row = self.row(self.rows + place)
                    end = SEQ_LEN - (self.rows + place) % 5
                    inputs[slot], targets[slot, :end] = row[:-1], row[1 : end + 1]
            batches.append(Batch(inputs, targets))
        self.rows += G
        return batches

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = state["rows"]

    def close(self) -> None:
        pass


def small_parts(plan: TrainPlan, directory: Path | None = None, world: World | None = None) -> Parts:
    world = world or World()
    model = build(plan.model, plan.seed, world.device, compute_dtype(plan.dtype))
    parts = Parts(model, Optimizer(model, roles(model), plan.optim, world), Rows(plan, world), world)
    if directory is not None:
        directory.mkdir(exist_ok=True, parents=True)
        parts.home = Home(directory, b"{}", FACTS.fingerprint, FACTS.tokenizer_sha256)
        parts.evaluate = lambda: measured(parts)
    return parts


def measured(parts: Parts) -> BitsPerByte:
    """The loss on rows that training never sees."""
    rows = Rows(small_plan(), parts.world)
    rows.rows = 10**6
    batch = rows.next_step()[0]
    with torch.no_grad():
        nats = float(parts.model.loss_sum(batch.inputs, batch.targets))
    return BitsPerByte(nats, int((batch.targets >= 0).sum()), int((batch.targets >= 0).sum()), "0" * 16)


def train_small(plan: TrainPlan, directory: Path, parts: Parts | None = None) -> Parts:
    """Start the run in `directory`, or go on with it, as `train.run` does."""
    rng.seed_all(plan.seed)
    parts = parts or small_parts(plan, directory)
    resume = standing(directory, plan).resume if (directory / CHECKPOINTS).is_dir() else None
    if resume:
        restore(parts, resume)
    first = parts.world.rank == 0
    log = open_log(directory, parts.step if resume else None, screen=None) if first else RunLog(None)
    if resume:
        renew_log(log, parts, resume)
    try:
        return pretrain(plan, parts, log)
    finally:
        log.close()


PLACES = (None, "begun", "synced", "manifest_synced", "renamed", "committed")  # fail points of a save; None: a step


class Killer(Rows):
    """Kills the process when it is asked for the n-th step."""

    left = 0

    def next_step(self) -> list:  # type: ignore[type-arg]
        self.left -= 1
        if self.left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().next_step()


def die_training(plan: TrainPlan, folder: Path, at: int, place: str | None) -> bool:
    """True if a forked trainer died: at its `at`-th step, or at the first passage of a fail point of saving."""
    child = os.fork()
    if child == 0:
        parts = small_parts(plan, folder)
        if place is None:
            killer = Killer(plan, parts.world)
            killer.left = at
            parts.stream = killer
        else:
            os.environ["PICOLLM_FAIL"] = f"ckpt.{place}=kill"
        train_small(plan, folder, parts)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def timeless(folder: Path) -> list[dict[str, object]]:
    return [{key: value for key, value in line.items() if key not in TIME_FIELDS} for line in read(folder / METRICS)]


def tensors_of(parts: Parts) -> dict[str, torch.Tensor]:
    found = {**dict(parts.model.named_parameters()), **parts.optimizer.state_dict()}
    return {name: tensor.detach().clone() for name, tensor in found.items()}


def assert_equal_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name
