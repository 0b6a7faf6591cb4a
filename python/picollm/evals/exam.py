"""What a set of questions came to: counts first, ratios derived. No torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """`right` of `asked` questions, of the `whole` the task has. baseline: the accuracy that knowing nothing gives."""

    task: str
    right: int
    asked: int
    whole: int
    baseline: float
    shots: int = 0

    @property
    def accuracy(self) -> float:
        return self.right / self.asked

    @property
    def error(self) -> float:
        """Standard error of the accuracy, over the choice of questions."""
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.asked)

    @property
    def centred(self) -> float:
        """0 for the baseline, 1 for all right (arXiv 2406.11794). Negative below the baseline."""
        return (self.accuracy - self.baseline) / (1 - self.baseline)

    @property
    def centred_error(self) -> float:
        return self.error / (1 - self.baseline)

    def to_json(self) -> dict[str, float | int]:
        return {
            "right": self.right,
            "n": self.asked,
            "of": self.whole,
            "shots": self.shots,
            "accuracy": self.accuracy,
            "se": self.error,
            "baseline": self.baseline,
            "centred": self.centred,
        }


def mean_centred(results: Sequence[Result]) -> tuple[float, float]:
    """Plain mean of the centred accuracies and its standard error, the tasks taken as independent."""
    mean = sum(result.centred for result in results) / len(results)
    error = math.sqrt(sum(result.centred_error**2 for result in results)) / len(results)
    return mean, error
