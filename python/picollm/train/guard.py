"""Whether a step may change the model: finite numbers only, no spikes, and a stop when it does not get better."""

import math
import statistics
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

WINDOW = 128  # finite losses that a spike is measured against; none is called before there are so many
SPIKE_MADS = 8.0  # a spike lies this many median absolute deviations above the median; RELIABILITY 6
PATIENCE = 3  # steps in a row without finite numbers before the run stops


class Verdict(StrEnum):
    """What becomes of a step's gradients."""

    APPLY = "apply"
    SKIP_NONFINITE = "skip: not finite"
    SKIP_SPIKE = "skip: spike"


@dataclass
class Guard:
    """Judges steps in order. Its whole memory is in the checkpoint, so a resumed run decides alike."""

    losses: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    streak: int = 0  # steps without finite numbers, in a row
    last_good: int = 0  # steps done when the last update was applied
    skipped: int = 0

    def judge(self, loss: float, grad_norm: float) -> Verdict:
        """The verdict on a step with this loss; changes nothing."""
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            return Verdict.SKIP_NONFINITE
        return Verdict.SKIP_SPIKE if self.is_spike(loss) else Verdict.APPLY

    def is_spike(self, loss: float) -> bool:
        if len(self.losses) < WINDOW:
            return False
        median = statistics.median(self.losses)
        spread = statistics.median(abs(value - median) for value in self.losses)
        return spread > 0 and loss > median + SPIKE_MADS * spread

    def note(self, verdict: Verdict, loss: float, step: int) -> None:
        """Remember what was decided for the step that makes `step` steps done."""
        if math.isfinite(loss):
            self.losses.append(loss)  # a spike too, so that a lasting rise stops being one
        self.streak = self.streak + 1 if verdict is Verdict.SKIP_NONFINITE else 0
        if verdict is Verdict.APPLY:
            self.last_good = step
        else:
            self.skipped += 1

    @property
    def exhausted(self) -> bool:
        return self.streak >= PATIENCE

    def to_json(self) -> dict[str, Any]:
        losses = [value.hex() for value in self.losses]
        return {"losses": losses, "streak": self.streak, "last_good": self.last_good, "skipped": self.skipped}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Guard":
        losses = deque((float.fromhex(text) for text in value["losses"]), maxlen=WINDOW)
        return cls(losses, value["streak"], value["last_good"], value["skipped"])
