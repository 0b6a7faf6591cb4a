"""One short training run of one arm, as a process of its own: `python -m tests.campaigns.trial JOB OUT`.

JOB is JSON (`Job`); OUT gets the losses and the validation curve when the run is whole, so a file that is there need
not be made again. Figures are losses, not times: how busy the machine is does not matter.

Arms: `ours`, as `picollm train` trains; `adamw`, the same model and rates with every matrix by AdamW too; `gpt2`, the
plain model of tests/reference. All read the same rows in the same order, and validate on the same ones.
"""

import json
import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tests.reference.gpt2 import BETAS, DECAY, EPS, PlainAdamW, PlainGPT

from picollm.layout import Layout
from picollm.model.config import shape
from picollm.model.counts import flops_per_token
from picollm.model.roles import Role, roles
from picollm.optim.sharded import Optimizer
from picollm.plan.rates import MUON_LR, AdamWGroup
from picollm.plan.request import TrainRequest
from picollm.plan.resolve import resolve
from picollm.plan.schedule import rates_at
from picollm.plan.trainplan import TrainPlan
from picollm.runtime import durable, rng
from picollm.runtime.dist import World
from picollm.runtime.machine import Machine
from picollm.runtime.signals import Stop
from picollm.tok.tokenizer import Tokenizer
from picollm.train.data import facts
from picollm.train.guard import Verdict
from picollm.train.measure import build_parts, open_stream
from picollm.train.state import Parts, versions
from picollm.train.step import update
from picollm.train.validate import validator

ADAMW_MATRIX = "adamw matrix"  # the role that stands for Muon's in the arm without it


@dataclass(frozen=True)
class Job:
    """factor: of all our rates. rate: AdamW's for the matrices, in the arms that have it. *_tokens: of validations."""

    arm: str
    depth: int
    steps: int
    tokens_per_step: int
    seq_len: int
    seed: int
    factor: float = 1.0
    rate: float | None = None
    eval_every: int | None = None
    val_tokens: int = 2**13
    last_val_tokens: int = 2**16

    @property
    def name(self) -> str:
        """The file its figures go to."""
        rate = "" if self.rate is None else f"-rate{self.rate:g}"
        factor = "" if self.factor == 1 else f"-x{self.factor:.4g}"
        return f"{self.arm}-d{self.depth}-{self.steps}x{self.tokens_per_step}{rate}{factor}-seed{self.seed}"


def plan_of(job: Job, layout: Layout) -> TrainPlan:
    request = TrainRequest(
        depth=job.depth, num_iterations=job.steps, total_batch_size=job.tokens_per_step, max_seq_len=job.seq_len,
        window_pattern="L", device_batch_size=job.tokens_per_step // job.seq_len, seed=job.seed,
        learning_rate=MUON_LR * job.factor, eval_every=job.eval_every or job.steps, val_tokens=job.val_tokens,
        device="cpu", compile="off",
    )  # fmt: skip
    return resolve(request, Machine.cpu(1e11), facts(request, layout)).require()


def parts_of(job: Job, plan: TrainPlan) -> Parts:
    """Model, optimizer and rows of the arm."""
    if job.arm == "gpt2":
        model = PlainGPT(plan.model, job.seed)
        assert job.rate is not None
        rule = PlainAdamW(dict(model.named_parameters()), job.rate, job.steps)
        return Parts(model, rule, open_stream(plan, World()), World())  # type: ignore[arg-type]
    parts = build_parts(plan, World())
    if job.arm == "adamw":
        assert job.rate is not None
        group = AdamWGroup(job.rate, *BETAS, decay=DECAY, eps=EPS)
        given: dict[str, Any] = {name: ADAMW_MATRIX if role is Role.MATRIX else role
                                 for name, role in roles(parts.model).items()}  # fmt: skip
        optim = replace(plan.optim, adamw={**plan.optim.adamw, ADAMW_MATRIX: group})
        parts.optimizer = Optimizer(parts.model, given, optim, parts.world)
    return parts


def carry_out(job: Job, layout: Layout) -> dict[str, Any]:
    """Train; the figures of the run."""
    plan = plan_of(job, layout)
    assert plan.data is not None
    rng.seed_all(plan.seed)
    parts = parts_of(job, plan)
    lengths = torch.tensor(Tokenizer.load(Path(plan.data.path)).byte_lengths())
    look = validator(plan, parts.model, lengths, parts.world, Stop())
    last_look = validator(replace(plan, val_tokens=job.last_val_tokens), parts.model, lengths, parts.world, Stop())
    losses, curve, skipped = [], [[0, look().bpb]], 0
    while parts.step < plan.steps:
        outcome = update(parts, parts.next_rows(), rates_at(parts.step, plan.schedule))
        losses.append(round(outcome.loss, 6))
        skipped += outcome.verdict is not Verdict.APPLY
        if parts.step % plan.eval_every == 0 or parts.step == plan.steps:
            curve.append([parts.step * plan.tokens_per_step, look().bpb])
    last = last_look()
    return {
        "job": asdict(job), "bpb": last.bpb, "val_bytes": last.bytes, "val_set": last.set_hash, "curve": curve,
        "losses": losses, "skipped": skipped, "tokens": plan.steps * plan.tokens_per_step,
        "parameters": sum(param.numel() for param in parts.model.parameters()),
        "flops_per_token": flops_per_token(shape(job.depth, plan.model.vocab_size, job.seq_len, "L")),
        "matrix_rate": plan.optim.muon.lr if job.arm == "ours" else job.rate, "decay": plan.schedule.decay,
        "shards": plan.data.fingerprint, "tokenizer": plan.data.tokenizer_sha256, "vocab": plan.model.vocab_size,
        "threads": torch.get_num_threads(), "versions": versions(),
    }  # fmt: skip


def main() -> None:
    job, out = Job(**json.loads(sys.argv[1])), Path(sys.argv[2])
    durable.write_json(out, carry_out(job, Layout.from_env()))
    os._exit(0)  # no threads to wait for: the figures are on disk


if __name__ == "__main__":
    main()
