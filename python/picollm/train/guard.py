"""Whether a step may change the model: finite numbers only, no spikes, and what follows when it does not get better.

The ladder: a bad step is skipped; three in a row take the run back to its last checkpoint with their rows left out;
after two such returns, or without a checkpoint, three in a row end the run.
"""

import math
import statistics
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

WINDOW = 128  # finite losses that a spike is measured against; none is called before there are so many
SPIKE_MADS = 8.0  # a spike lies this many median absolute deviations above the median; RELIABILITY 6
PATIENCE = 3  # bad steps in a row before the run goes back, or stops
MOST_RETURNS = 2  # to a checkpoint, for one cause
FORGIVEN = WINDOW  # steps beyond a failure after which another one has another cause


class Verdict(StrEnum):
    """What becomes of a step's gradients."""

    APPLY = "apply"
    SKIP_NONFINITE = "skip: not finite"
    SKIP_SPIKE = "skip: spike"


@dataclass
class Guard:
    """Judges steps in order. Its whole memory is in the checkpoint, so a resumed run decides alike.

    left_out: ranges [a, b) of the steps that the stream hands out, in order, which training does not use.
    """

    losses: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    streak: int = 0  # bad steps in a row
    last_good: int = 0  # steps done when the last update was applied
    skipped: int = 0
    returns: int = 0  # to a checkpoint, for what failed at `failed_at`
    failed_at: int = 0  # steps done when the run last went back
    left_out: list[tuple[int, int]] = field(default_factory=list)
    cause: str = ""  # of the last bad step

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
        if verdict is Verdict.APPLY:
            self.streak, self.last_good = 0, step
            if step >= self.failed_at + FORGIVEN:
                self.returns = 0
        else:
            self.streak += 1
            self.skipped += 1
            self.cause = verdict.value

    @property
    def exhausted(self) -> bool:
        return self.streak >= PATIENCE

    @property
    def may_return(self) -> bool:
        return self.returns < MOST_RETURNS

    def taken(self, step: int) -> int:
        """Steps that the stream has handed out, used or not, when `step` were used."""
        for start, end in self.left_out:
            if step > start:
                step += end - start
        return step

    def leaves_out(self, taken: int) -> bool:
        """Whether the stream's next step, after `taken`, is one of those not to be used."""
        return any(start <= taken < end for start, end in self.left_out)

    def after_return(self, failed: "Guard", step: int) -> None:
        """This guard, of the checkpoint gone back to, learns what ended the attempt that stood at `step`."""
        end = failed.taken(step)
        self.left_out = sorted([*failed.left_out, (end - failed.streak, end)])
        self.returns, self.failed_at, self.skipped = failed.returns + 1, step, failed.skipped
        self.streak = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "losses": [value.hex() for value in self.losses],
            "streak": self.streak,
            "last_good": self.last_good,
            "skipped": self.skipped,
            "returns": self.returns,
            "failed_at": self.failed_at,
            "left_out": [list(pair) for pair in self.left_out],
            "cause": self.cause,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Guard":
        losses = deque((float.fromhex(text) for text in value["losses"]), maxlen=WINDOW)
        left_out = [(int(start), int(end)) for start, end in value["left_out"]]
        return cls(losses, value["streak"], value["last_good"], value["skipped"], value["returns"],
                   value["failed_at"], left_out, value["cause"])  # fmt: skip
