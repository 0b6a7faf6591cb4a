"""Validation during training: the same rows each time, whatever the batch and the ranks."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from picollm.evals.bpb import Steps, bits_per_byte
from picollm.evals.result import BitsPerByte
from picollm.loader.batch import Batch
from picollm.loader.stream import Stream
from picollm.model.gpt import GPT
from picollm.plan.trainplan import TrainPlan
from picollm.runtime import failpoint
from picollm.runtime.dist import World
from picollm.runtime.signals import Stop
from picollm.train.due import Interrupted

ROWS_PER_STEP = 64  # validation rows between two looks at the stop flag; part of what the set of rows means


class Watched:
    """A stream that all ranks leave together, between two steps, when any of them is asked to stop."""

    def __init__(self, stream: Steps, stop: Stop, world: World) -> None:
        self.stream = stream
        self.stop = stop
        self.world = world

    def next_step(self) -> Sequence[Batch]:
        failpoint.reach("train.validating")
        going_on = torch.tensor(0 if self.stop.asked() else 1, device=self.world.device)
        if not bool(self.world.min_(going_on)):
            raise Interrupted
        return self.stream.next_step()


def rows_of(plan: TrainPlan) -> tuple[int, int]:
    """(rows per step, steps) that together hold `plan.val_tokens`, or a little less."""
    rows = max(1, plan.val_tokens // plan.seq_len)
    per_step = min(ROWS_PER_STEP, rows)
    return per_step, rows // per_step


def packing_of(plan: TrainPlan) -> Literal["bestfit", "concat"]:
    return "concat" if plan.packing == "concat" else "bestfit"


def validation_stream(plan: TrainPlan, world: World) -> Stream:
    """The validation rows in stored order, once; of them a run reads the first `rows_of(plan)`."""
    assert plan.data is not None
    per_step, _ = rows_of(plan)
    elsewhere = bool(plan.data.val_path)
    return Stream(
        Path(plan.data.val_path if elsewhere else plan.data.path),
        split=plan.data.val_split,
        seq_len=plan.seq_len,
        batch_size=min(plan.device_batch, -(-per_step // world.size)),
        rows_per_step=per_step,
        rank=world.rank,
        world_size=world.size,
        pack=packing_of(plan),
        shuffle="none",
        epochs=1,
        threads=1,
        device=world.device,
        fingerprint=plan.data.val_fingerprint if elsewhere else plan.data.fingerprint,
        tokenizer=plan.data.tokenizer_sha256,
    )


def validator(plan: TrainPlan, model: GPT, byte_lengths: Tensor, world: World, stop: Stop) -> Callable[[], BitsPerByte]:
    """A function that scores `model` on the plan's validation rows: the same ones each time, whatever the ranks."""
    _, steps = rows_of(plan)

    def evaluate() -> BitsPerByte:
        with validation_stream(plan, world) as stream:
            return bits_per_byte(model, Watched(stream, stop, world), byte_lengths, world, steps)

    return evaluate
