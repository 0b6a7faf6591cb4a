"""Muon on one matrix, in float64, step by step as the specification (training, 4.1) has it."""

import numpy as np
from numpy.typing import NDArray

from picollm.optim.polar import POLAR_EXPRESS
from picollm.plan.rates import MuonGroup

Array = NDArray[np.float64]


class Muon:
    """One matrix p (m × l) with its momentum and mean squares."""

    def __init__(self, p: Array, group: MuonGroup) -> None:
        m, l = p.shape
        self.p, self.group = p.copy(), group
        self.momentum, self.second = np.zeros_like(p), np.zeros(m if m >= l else l)

    def step(self, g: Array, lr: float, mu: float, decay: float) -> None:
        m, l = g.shape
        self.momentum = mu * self.momentum + (1 - mu) * g
        y = self.direction((1 - mu) * g + mu * self.momentum)
        rate = lr * np.sqrt(max(1.0, m / l))
        for i in range(m):
            for j in range(l):
                decays = y[i, j] * self.p[i, j] >= 0 or not self.group.cautious
                self.p[i, j] -= rate * (y[i, j] + decay * self.p[i, j] * decays)

    def direction(self, u: Array) -> Array:
        m, l = u.shape
        if not u.any():
            return self.evened(u)
        if self.group.equilibrate:
            mean = np.linalg.norm(u) / np.sqrt(m)
            u = np.array([row * mean / max(np.linalg.norm(row), 1e-7 * mean) for row in u])
        x = u / (1.01 * np.linalg.norm(u))
        for a, b, c in POLAR_EXPRESS:
            if m > l:
                gram = x.T @ x
                x = a * x + x @ (b * gram + c * gram @ gram)
            else:
                gram = x @ x.T
                x = a * x + (b * gram + c * gram @ gram) @ x
        if self.group.renormalise:
            x = x * np.sqrt(min(m, l)) / np.linalg.norm(x)
        return self.evened(x)

    def evened(self, x: Array) -> Array:
        if not self.group.normuon:
            return x
        m, l = x.shape
        line = 1 if m >= l else 0
        self.second = self.group.beta2 * self.second + (1 - self.group.beta2) * (x * x).mean(axis=line)
        y = x / np.expand_dims(np.sqrt(np.maximum(self.second, 1e-10)), line)
        return y * np.linalg.norm(x) / np.linalg.norm(y) if x.any() else x
