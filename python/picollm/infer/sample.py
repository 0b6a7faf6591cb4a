"""Logits → the next token: temperature, top-k, top-p, min-p, in that order; noise from (seed, position) alone.

Everything runs in float64 on the host, on one row of logits per sequence: a sequence's text then depends neither on
the device nor on its neighbours in the batch, as far as its logits do not.
"""

import struct
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from picollm.errors import PicoError, UsageError

LARGEST_SEED = 2**63 - 1
HOTTEST = 2.0  # above it small models write noise; the same bound as the server's


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn. Temperature 0 takes the likeliest token, the lowest id on ties; `None` is off."""

    temperature: float = 0.8
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        checks = (
            (0 <= self.temperature <= HOTTEST, f"temperature {self.temperature} is not within 0 … {HOTTEST:g}"),
            (self.top_k is None or self.top_k >= 1, f"top-k {self.top_k} is not a positive whole number"),
            (0 < self.top_p <= 1, f"top-p {self.top_p} is not above 0 and at most 1"),
            (0 <= self.min_p <= 1, f"min-p {self.min_p} is not within 0 … 1"),
            (0 <= self.seed <= LARGEST_SEED, f"seed {self.seed} is not within 0 … {LARGEST_SEED}"),
        )
        for holds, said in checks:
            if not holds:
                raise UsageError(said)


GREEDY = Sampling(temperature=0.0)


def distribution(logits: Tensor, how: Sampling) -> Tensor:
    """What is drawn from: logits (V,) → probabilities (V,) float64 that sum to 1, zero where a rule cut.

    Top-k keeps the k likeliest; top-p, of those, the shortest head whose sum reaches p; min-p, of those, what is at
    least p times as likely as the likeliest. Equal logits rank by id. At least one token always stays.
    """
    z = logits.detach().to("cpu", torch.float64)
    if not torch.isfinite(z).any() or torch.isnan(z).any() or torch.isposinf(z).any():
        raise PicoError("the model's logits are not numbers", hint="the checkpoint is damaged or its run diverged")
    if how.temperature == 0:
        first = int(torch.nonzero(z == z.max())[0])
        return torch.zeros_like(z).index_fill_(0, torch.tensor([first]), 1.0)
    ranked, ids = torch.sort(z, descending=True, stable=True)
    kept = torch.exp((ranked - ranked[0]) / how.temperature)  # the likeliest is 1: no overflow, and min-p reads off it
    if how.top_k is not None:
        kept[how.top_k :] = 0
    within = kept >= how.min_p
    if how.top_p < 1:  # 1 is off: rounding must not cut the very last ones
        within &= torch.cumsum(kept, 0) - kept < how.top_p * kept.sum()
    kept = torch.where(within, kept, 0.0)
    return torch.zeros_like(z).scatter_(0, ids, kept / kept.sum())


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on its arguments alone, with 53 random bits."""
    word = blake2b(struct.pack("<QQ", seed, position), digest_size=8, person=b"picollm-sample").digest()
    return float(struct.unpack("<Q", word)[0] >> 11) * 2.0**-53


def draw(probabilities: Tensor, noise: float) -> int:
    """The token whose share of [0, 1) holds `noise`; shares lie in id order. probabilities (V,) float64."""
    totals = torch.cumsum(probabilities, 0)
    found = int(torch.searchsorted(totals, torch.tensor(noise * float(totals[-1]), dtype=torch.float64), right=True))
    if found >= len(totals) or probabilities[found] == 0:  # rounding at the very end
        found = int(torch.nonzero(probabilities)[-1])
    return found


def sample(logits: Tensor, how: Sampling, position: int) -> int:
    """The token at `position` of its sequence. logits (V,)."""
    return draw(distribution(logits, how), uniform(how.seed, position))


def log_probability(logits: Tensor, token: int) -> float:
    """What the model itself gives `token`, before any rule of sampling, in nats. logits (V,)."""
    z = logits.detach().to("cpu", torch.float64)
    return float(z[token] - torch.logsumexp(z, 0))


def likeliest(logits: Tensor, count: int) -> list[tuple[int, float]]:
    """The `count` likeliest tokens with their log-probabilities, likeliest first, lowest id first on ties."""
    z = torch.log_softmax(logits.detach().to("cpu", torch.float64), 0)
    values, ids = torch.sort(z, descending=True, stable=True)
    return [(int(token), value) for token, value in zip(ids[:count], values[:count].tolist(), strict=True)]
