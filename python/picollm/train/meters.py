"""Smoothed figures of a run that a resume must find again."""

import math
from dataclasses import dataclass
from typing import Any

EMA_DECAY = 0.95  # about the last twenty steps; for people, nothing is decided by it
WORSE_EVALS = 5  # validations in a row without a new best, while training improves, before W403


@dataclass
class Meters:
    """`ema` is unbiased from the first value on; a value that is not finite never enters.

    worse: validations since the best one at which training was better than then. at_best: `ema` at the best.
    """

    total: float = 0.0
    weight: float = 0.0
    worse: int = 0
    at_best: float = math.inf

    def add(self, loss: float) -> float:
        """The smoothed loss after one more step."""
        if math.isfinite(loss):
            self.total = EMA_DECAY * self.total + (1 - EMA_DECAY) * loss
            self.weight = EMA_DECAY * self.weight + (1 - EMA_DECAY)
        return self.ema

    def validated(self, best: bool) -> bool:
        """Note a validation, the best so far or not; True when the gap has just grown for WORSE_EVALS of them."""
        if best:
            self.worse, self.at_best = 0, self.ema if self.weight else math.inf
        elif self.ema < self.at_best:
            self.worse += 1
        return self.worse == WORSE_EVALS and not best

    @property
    def ema(self) -> float:
        return self.total / self.weight if self.weight else math.nan

    def to_json(self) -> dict[str, Any]:
        figures = {"total": self.total.hex(), "weight": self.weight.hex()}
        return {**figures, "worse": self.worse, "at_best": self.at_best.hex()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Meters":
        """Inverse of `to_json`; a checkpoint from before the gap was followed begins to follow it."""
        at_best = float.fromhex(value.get("at_best", "inf"))
        return cls(float.fromhex(value["total"]), float.fromhex(value["weight"]), value.get("worse", 0), at_best)
