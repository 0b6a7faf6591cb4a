"""Muon: momentum, made orthogonal, then evened out and applied with cautious decay. A plain rule on stacks.

Specification: training, 4.1. Letters: n matrices of one shape m × l.
"""

import torch
from torch import Tensor
from torch.linalg import vector_norm

from picollm.optim.polar import POLAR_EXPRESS, SAFETY, Coefficients, polar
from picollm.plan.rates import MuonGroup

ROW_GUARD = 1e-7  # of the mean row norm. Relative: an absolute guard would end equilibration for tiny gradients
SECOND_LEAST = 1e-10  # below this mean square an update is not divided further
SQUARES_LEAST = 1e-10  # guards a division by a squared norm, which after `polar` is 0 or of the order of 1
ZERO_BELOW = 1 << 20  # times the smallest normal number: 1.2e-32 in fp32
BOTH = (-2, -1)


def second_shape(n: int, m: int, l: int) -> tuple[int, int, int]:
    """NorMuon keeps one mean square per row if m ≥ l, else per column."""
    return (n, m, 1) if m >= l else (n, 1, l)


def muon_(
    params: Tensor,
    grads: Tensor,
    momentum: Tensor,
    second: Tensor | None,
    lr: float,
    mu: float,
    decay: float,
    group: MuonGroup,
    *,
    half: bool = False,
    coefficients: Coefficients = POLAR_EXPRESS,
) -> None:
    """One step on a stack. params, momentum (n, m, l) and second (`second_shape`) are updated; grads is used up.

    lr and decay are those of this step. half: the polar factor is taken in bf16. A zero gradient on a zero momentum
    gives a zero update.
    """
    m, l = params.shape[-2:]
    momentum.lerp_(grads, 1 - mu)
    update = grads.lerp_(momentum, mu)
    update.mul_(normalising(update, equilibrate=group.equilibrate))
    update = polar(update.bfloat16() if half else update, coefficients).to(params.dtype)
    if group.renormalise or group.normuon:
        update.mul_(evening(update, second if group.normuon else None, group))
    if group.cautious:
        shrinking = torch.mul(update, params).ge_(0)
        update.addcmul_(shrinking, params, value=decay)
    else:
        update.add_(params, alpha=decay)
    params.sub_(update, alpha=lr * max(1.0, m / l) ** 0.5)


def normalising(update: Tensor, *, equilibrate: bool) -> Tensor:
    """Factors (n, m, 1) that bring each row to the mean row norm, if asked, and each matrix to norm 1/SAFETY.

    Powers of ten of the input do not matter: norms are taken after division by the largest entry. A matrix of zeros,
    or of numbers so small that their inverse overflows, gets factors of zero.
    """
    tiny = torch.finfo(update.dtype).tiny
    largest = vector_norm(update, float("inf"), BOTH, keepdim=True).clamp_min(tiny)
    rows = vector_norm(update / largest, dim=-1, keepdim=True)
    factor = torch.ones_like(rows)
    if equilibrate:
        mean = rows.square().mean(-2, keepdim=True).sqrt()
        factor = mean / torch.maximum(rows, ROW_GUARD * mean).clamp_min(tiny)
    whole = vector_norm(rows * factor, dim=BOTH, keepdim=True).clamp_min(tiny)
    scale: Tensor = factor / (SAFETY * whole) / largest
    return scale.masked_fill(largest < ZERO_BELOW * tiny, 0.0)


def evening(update: Tensor, second: Tensor | None, group: MuonGroup) -> Tensor:
    """Factors that renormalise each matrix to √min(m, l) (Muon+, arXiv 2602.21545) and even out its rows or columns
    by their running mean square at the same norm (NorMuon, arXiv 2510.05491). `second` is updated.
    """
    m, l = update.shape[-2:]
    line = -1 if m >= l else -2
    squares = vector_norm(update, dim=line, keepdim=True).square()  # sums along each line
    whole = squares.sum(BOTH, keepdim=True)
    factor = torch.ones_like(whole)
    if group.renormalise:
        factor = (min(m, l) / whole.clamp_min(SQUARES_LEAST)).sqrt()
    if second is None:
        return factor
    squares, whole = squares * factor.square(), whole * factor.square()
    second.lerp_(squares / update.shape[line], 1 - group.beta2)
    inverse = second.clamp_min(SECOND_LEAST).rsqrt()
    evened = (squares * inverse.square()).sum(BOTH, keepdim=True)
    scale: Tensor = factor * inverse * (whole / evened.clamp_min(SQUARES_LEAST)).sqrt()
    return scale
