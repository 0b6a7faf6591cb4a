"""What the optimizer is told at each step: closed forms of (step, steps), so a resume needs nothing but the step."""

import math
from dataclasses import dataclass

MOMENTUM_START, MOMENTUM_PEAK, MOMENTUM_END = 0.85, 0.97, 0.90  # nanochat 92d63d4, tuned at depth 12


@dataclass(frozen=True)
class Rates:
    """The three numbers that change from step to step."""

    lr: float  # multiplies every peak rate
    momentum: float  # Muon's
    decay: float  # Muon's, now; AdamW decays are constant per group


@dataclass(frozen=True)
class Schedule:
    """Shape of a run in time. `warmup`, `ramp` and `warmdown` are steps; `decay` is Muon's peak."""

    steps: int
    warmup: int
    ramp: int
    warmdown: int
    final: float
    decay: float
    momentum_start: float = MOMENTUM_START
    momentum_peak: float = MOMENTUM_PEAK
    momentum_end: float = MOMENTUM_END

    def __post_init__(self) -> None:
        if not (self.steps >= 1 and self.warmup >= 0 and self.ramp >= 1 and 0 <= self.warmdown <= self.steps):
            raise ValueError(f"no schedule: {self}")
        if not (0.0 <= self.final <= 1.0 and self.decay >= 0.0):
            raise ValueError(f"no schedule: {self}")


def lr_at(step: int, s: Schedule) -> float:
    """Up over `warmup`, flat, then down over `warmdown` towards the fraction `final`."""
    up = (step + 1) / s.warmup if step < s.warmup else 1.0
    left = s.steps - step
    if left >= s.warmdown:
        return up
    p = left / s.warmdown
    return min(up, p + (1 - p) * s.final)


def momentum_at(step: int, s: Schedule) -> float:
    """The lower of a ramp up and a cooling down: neither jumps, whatever the length of the run."""
    ramp = s.momentum_start + (s.momentum_peak - s.momentum_start) * min(1.0, step / s.ramp)
    cooled = max(0, step - (s.steps - s.warmdown)) / s.warmdown if s.warmdown else 0.0
    return min(ramp, s.momentum_peak - (s.momentum_peak - s.momentum_end) * cooled)


def rates_at(step: int, schedule: Schedule) -> Rates:
    """Rates of step 0 … steps−1, before the update of that step."""
    assert 0 <= step < schedule.steps
    decay = schedule.decay * 0.5 * (1 + math.cos(math.pi * step / schedule.steps))
    return Rates(lr_at(step, schedule), momentum_at(step, schedule), decay)
