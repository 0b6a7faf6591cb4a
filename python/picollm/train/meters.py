"""Smoothed figures of a run that a resume must find again."""

import math
from dataclasses import dataclass
from typing import Any

EMA_DECAY = 0.95  # about the last twenty steps; for people, nothing is decided by it


@dataclass
class Meters:
    """`ema` is unbiased from the first value on; a value that is not finite never enters."""

    total: float = 0.0
    weight: float = 0.0

    def add(self, loss: float) -> float:
        """The smoothed loss after one more step."""
        if math.isfinite(loss):
            self.total = EMA_DECAY * self.total + (1 - EMA_DECAY) * loss
            self.weight = EMA_DECAY * self.weight + (1 - EMA_DECAY)
        return self.ema

    @property
    def ema(self) -> float:
        return self.total / self.weight if self.weight else math.nan

    def to_json(self) -> dict[str, Any]:
        return {"total": self.total.hex(), "weight": self.weight.hex()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Meters":
        return cls(float.fromhex(value["total"]), float.fromhex(value["weight"]))
