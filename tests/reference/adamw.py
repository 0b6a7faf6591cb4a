"""AdamW on a list of numbers, one at a time, in float64."""

import math

from picollm.plan.rates import AdamWGroup


class AdamW:
    """Values with their two moments."""

    def __init__(self, p: list[float], group: AdamWGroup) -> None:
        self.p, self.group, self.steps = list(p), group, 0
        self.first, self.second = [0.0] * len(p), [0.0] * len(p)

    def step(self, g: list[float], lr: float) -> None:
        self.steps += 1
        group = self.group
        for i, slope in enumerate(g):
            self.p[i] -= lr * group.decay * self.p[i]
            self.first[i] = group.beta1 * self.first[i] + (1 - group.beta1) * slope
            self.second[i] = group.beta2 * self.second[i] + (1 - group.beta2) * slope**2
            first = self.first[i] / (1 - group.beta1**self.steps)
            second = self.second[i] / (1 - group.beta2**self.steps)
            self.p[i] -= lr * first / (math.sqrt(second) + group.eps)
