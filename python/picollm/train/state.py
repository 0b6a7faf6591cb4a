"""`Parts`: all that a training run is made of, and all that a resume needs."""

import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from picollm import __version__
from picollm.ckpt import protocol
from picollm.ckpt.schema import CONFIG, STATE, State, damaged
from picollm.ckpt.tensors import Tensors
from picollm.ckpt.weights import load_weights
from picollm.errors import FingerprintMismatch, TokenizerMismatch
from picollm.evals.result import BitsPerByte
from picollm.loader.batch import Batch
from picollm.model.gpt import GPT
from picollm.model.kernels.choose import Choice
from picollm.optim.sharded import Optimizer
from picollm.plan.trainplan import TrainPlan
from picollm.runtime import failpoint, rng
from picollm.runtime.dist import World
from picollm.runtime.pace import Pace
from picollm.runtime.signals import Stop
from picollm.train.guard import Guard
from picollm.train.meters import Meters


class Stream(Protocol):
    """Rows in one order that any world size cuts up alike, and that resumes where its state says."""

    def next_step(self) -> list[Batch]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...
    def close(self) -> None: ...


Evaluate = Callable[[], BitsPerByte]


@dataclass
class Home:
    """Where a run lives: its folder, and the bytes and hashes that go into every checkpoint."""

    directory: Path
    tokenizer: bytes
    shards_sha: str
    tokenizer_sha256: str
    known: set[Path] = field(default_factory=set)  # checkpoints this process has verified or written

    @property
    def checkpoints(self) -> Path:
        return self.directory / "checkpoints"


@dataclass
class Parts:
    """A run at a step boundary. Without `home` it is a throw-away: nothing is saved.

    attention: which kernels were chosen, and why.
    step: attempted, drives schedule and data. updates: applied, drives bias correction.
    evaluated: last step whose validation is in the log. best: lowest validation so far, and the step that had it.
    peak_flops: of one device, for MFU. session: steps made by this process.
    """

    model: GPT
    optimizer: Optimizer
    stream: Stream
    world: World
    evaluate: Evaluate | None = None
    home: Home | None = None
    stage: str = "base"
    attention: Choice | None = None
    peak_flops: float = 0.0
    stop: Stop = field(default_factory=Stop)
    pace: Pace = field(default_factory=Pace)
    guard: Guard = field(default_factory=Guard)
    meters: Meters = field(default_factory=Meters)
    step: int = 0
    updates: int = 0
    evaluated: int = -1
    best: dict[str, Any] | None = None
    saved: int = -1  # last step of which a checkpoint exists
    session: int = 0
    leaving: str | None = None  # why the run ends before its last step, once the ranks have agreed
    save_due: bool = False  # the clock says save: rank 0's wish, then all ranks'
    cap_reached: bool = False  # likewise for --stop-after
    last_save: float = 0.0  # monotonic seconds
    session_start: float = 0.0  # monotonic seconds

    def next_rows(self) -> list[Batch]:
        """The batches of the coming step. What the guard leaves out is read and dropped."""
        failpoint.reach("train.waiting")
        taken = self.guard.taken(self.step)
        batches = self.stream.next_step()
        while self.guard.leaves_out(taken):
            batches = self.stream.next_step()
            taken += 1
        return batches


def contents(plan: TrainPlan, parts: Parts) -> protocol.Contents:
    """What a checkpoint of `parts` holds. Nothing in it comes from a clock."""
    home = parts.home
    assert home is not None
    state = State(
        step=parts.step,
        updates=parts.updates,
        stage=parts.stage,
        dtype=plan.dtype,
        device=parts.world.device.type,
        plan=identity(plan),
        loader=parts.stream.state_dict(),
        rng=rng.capture(),
        guard=parts.guard.to_json(),
        meters=parts.meters.to_json(),
        evaluated=parts.evaluated,
        best=parts.best,
        shards=home.shards_sha,
        tokenizer=home.tokenizer_sha256,
        versions=versions(),
        threads=torch.get_num_threads(),
        world_size=parts.world.size,
    )
    weights: dict[str, torch.Tensor] = dict(parts.model.named_parameters()) if parts.world.rank == 0 else {}
    config = plan.model.to_json().encode()
    return protocol.Contents(state, config, home.tokenizer, weights, parts.optimizer.state_dict())


def identity(plan: TrainPlan) -> dict[str, Any]:
    """What of a plan decides the numbers: the inputs of every schedule. Places and estimates stay out."""
    values = plan.to_json()
    kept = ("name", "horizon", "steps", "rows_per_step", "tokens_per_step", "schedule", "optim", "seed", "packing",
            "val_tokens", "eval_every", "dtype")  # fmt: skip
    return {name: values[name] for name in kept}


def restore(parts: Parts, path: Path) -> State:
    """Put `parts` where the checkpoint stands, from any world size. The checkpoint has been verified.

    Raises CheckpointError, FingerprintMismatch or TokenizerMismatch before anything has changed; LoaderStateError
    for another order of rows.
    """
    state = State.read(path / STATE)
    home = parts.home
    assert home is not None
    for what, kind, found, here in (
        ("shards", FingerprintMismatch, state.shards, home.shards_sha),
        ("tokenizer", TokenizerMismatch, state.tokenizer, home.tokenizer_sha256),
    ):
        if found != here:
            raise kind(f"{path}: was trained with {what} {found}, here is {here}", hint="name the run's own shards")
    if parts.model.config.to_json().encode() != (path / CONFIG).read_bytes():
        raise damaged(path / CONFIG, "holds another model than the plan")
    load_weights(parts.model, state, path)
    manifest = protocol.verify(path, only=())
    with Tensors(protocol.optimizer_files(path, manifest)) as tensors:
        parts.optimizer.load_state_dict(tensors)
    parts.stream.load_state_dict(state.loader)
    parts.step, parts.updates, parts.evaluated, parts.best = state.step, state.updates, state.evaluated, state.best
    parts.guard, parts.meters = Guard.from_json(state.guard), Meters.from_json(state.meters)
    parts.saved = state.step
    rng.restore(state.rng)
    return state


def versions() -> dict[str, str]:
    """What the bits of a CPU run depend on beside the inputs."""
    return {
        "picollm": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
