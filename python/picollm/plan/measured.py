"""What a few real steps of a plan took on a machine: `plan --measure` finds it, plan.json and the report keep it."""

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from picollm.errors import CheckError


@dataclass(frozen=True)
class Measured:
    """Of the slowest rank. `step_seconds`: each timed step. `validation_seconds`: one validation, on all its tokens.

    `waiting`: share of a step spent waiting for rows. `peak_memory`: bytes per device. `mfu`: None where the peak
    rate is unknown. `rows`: where the rows came from.
    """

    step_seconds: tuple[float, ...]
    validation_seconds: float
    waiting: float
    peak_memory: int
    mfu: float | None
    rows: str

    @property
    def step(self) -> float:
        """Median seconds per step."""
        return statistics.median(self.step_seconds)

    def __str__(self) -> str:
        low, high = min(self.step_seconds), max(self.step_seconds)
        mfu = f", {100 * self.mfu:.0f} % of the peak rate" if self.mfu is not None else ""
        return (
            f"{len(self.step_seconds)} steps on {self.rows}: {self.step:.3g} s each ({low:.3g} … {high:.3g}){mfu}; "
            f"{100 * self.waiting:.1f} % of it waiting for rows; a validation {self.validation_seconds:.3g} s"
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"step_seconds": list(self.step_seconds)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`. Raises CheckError on anything else."""
        try:
            return cls(**{**value, "step_seconds": tuple(map(float, value["step_seconds"]))})
        except (TypeError, KeyError, ValueError) as error:
            raise CheckError(f"not figures of measured steps: {error}") from None
