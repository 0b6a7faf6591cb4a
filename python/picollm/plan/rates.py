"""Peak rates of every optimizer group: base value x batch scale x width scale, and why.

Keys of `OptimPlan.adamw` are the values of `model.roles.Role`. Base values: training specification 4.2
(nanochat 92d63d4, searched at depth 12; the cliff of `x0_scale` at beta1 >= .97: its LOG 2026-01-22).
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from picollm.plan.laws import batch_scale, lr_scale, width_scale

EPS = 1e-10
MUON_LR = 0.02
MUON_BETA2 = 0.9
HOLD_FIRST = ("resid_scale", "x0_scale", "backout_scale")  # gradient exactly zero at the first step: rounding noise


@dataclass(frozen=True)
class AdamWGroup:
    """Decoupled AdamW, bias-corrected. `lr` is the peak, after batch and width scaling."""

    lr: float
    beta1: float
    beta2: float
    decay: float
    eps: float = EPS


@dataclass(frozen=True)
class MuonGroup:
    """Muon for all matrices. `lr` is the peak, after batch scaling; the flags are steps 2, 5, 6 and 7 of the rule."""

    lr: float
    beta2: float = MUON_BETA2
    equilibrate: bool = True
    renormalise: bool = True
    normuon: bool = True
    cautious: bool = True


@dataclass(frozen=True)
class OptimPlan:
    """Every constant the optimizer needs. Momentum, decay and the rate multiplier come from `Rates` at each step."""

    muon: MuonGroup
    adamw: dict[str, AdamWGroup]
    hold_first: tuple[str, ...] = HOLD_FIRST

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"hold_first": list(self.hold_first)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "OptimPlan":
        adamw = {role: AdamWGroup(**group) for role, group in value["adamw"].items()}
        return cls(MuonGroup(**value["muon"]), adamw, tuple(value["hold_first"]))


def batch_only(tokens_per_step: int, steps: int) -> float:
    """The batch's scale without the floor of short runs.

    Full steps bring a matrix to where it must go; the x0 scales start next to it. With the floor they fell from 0.05
    to -0.4 within six steps, all in step: the stream crosses zero, and the loss leaps (dev/LOG.md 2026-11-23).
    """
    return batch_scale(tokens_per_step)


def never_up(tokens_per_step: int, steps: int) -> float:
    """The batch's scale, at most 1.

    At 2,048 tokens a step and the full 0.2 the backout scale reaches 0.8 within seven steps, where the stream cancels
    itself and the loss jumps (dev/LOG.md).
    """
    return min(1.0, batch_scale(tokens_per_step))


@dataclass(frozen=True)
class Base:
    """A group before scaling. `batch`: its scale of (tokens per step, steps). `by_width`: of the width too."""

    group: AdamWGroup
    batch: Callable[[int, int], float]
    by_width: bool


ADAMW = {
    "unembed": Base(AdamWGroup(0.008, 0.8, 0.96, 0.01), lr_scale, True),
    "embed": Base(AdamWGroup(0.3, 0.8, 0.995, 0.001), lr_scale, True),
    "value_embed": Base(AdamWGroup(0.15, 0.8, 0.995, 0.01), lr_scale, True),
    "resid_scale": Base(AdamWGroup(0.005, 0.8, 0.95, 0.05), batch_only, False),
    "x0_scale": Base(AdamWGroup(0.5, 0.96, 0.95, 0.0), batch_only, False),
    "backout_scale": Base(AdamWGroup(0.2, 0.8, 0.95, 0.0), never_up, False),
    "smear": Base(AdamWGroup(0.2, 0.8, 0.95, 0.0), never_up, False),
}


def base_rates(
    learning_rate: float | None = None,
    embedding_lr: float | None = None,
    unembedding_lr: float | None = None,
    scalar_lr: float | None = None,
) -> dict[str, float]:
    """Base rate by role, "matrix" included.

    `learning_rate` is the matrices' and moves every group by the same factor. The others replace one family each:
    `embedding_lr` the token table (value tables at half of it), `scalar_lr` the x0 scales (residual scales at 1 %).
    """
    factor = 1.0 if learning_rate is None else learning_rate / MUON_LR
    rates = {"matrix": MUON_LR * factor} | {role: base.group.lr * factor for role, base in ADAMW.items()}
    if embedding_lr is not None:
        rates |= {"embed": embedding_lr, "value_embed": embedding_lr * 0.5}
    if unembedding_lr is not None:
        rates["unembed"] = unembedding_lr
    if scalar_lr is not None:
        rates |= {"x0_scale": scalar_lr, "resid_scale": scalar_lr * 0.01}
    return rates


def optim_plan(tokens_per_step: int, steps: int, width: int, base: dict[str, float] | None = None) -> OptimPlan:
    """Peak rates for a batch, a length and a width; `base` as `base_rates` gives it."""
    base = base_rates() if base is None else base
    by_width = width_scale(width)
    adamw = {
        role: replace(
            known.group,
            lr=base[role] * known.batch(tokens_per_step, steps) * (by_width if known.by_width else 1.0),
        )
        for role, known in ADAMW.items()
    }
    return OptimPlan(MuonGroup(lr=base["matrix"] * lr_scale(tokens_per_step, steps)), adamw)
