"""The polar factor of matrices by five odd polynomials: every singular value that is not tiny becomes about 1."""

import torch
from torch import Tensor

# a, b, c of X ← aX + (bA + cA²)X with A = XXᵀ, one row to an iteration.
# Polar Express, arXiv 2505.16932: 5 iterations, safety 2e-2, cushion 2.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
SAFETY = 1.01  # inputs are divided by 1.01 · ‖X‖_F, so that rounding leaves no singular value above 1
WORTH = 2  # long side over short side, from which on the iteration on the Gram matrix is the cheaper one

Coefficients = tuple[tuple[float, float, float], ...]


def polar(x: Tensor, coefficients: Coefficients = POLAR_EXPRESS) -> Tensor:
    """x (n, m, l), each matrix of Frobenius norm ≤ 1/1.01 → (n, m, l). The Gram matrix is taken on the short side."""
    short, long = sorted(x.shape[-2:])
    if long >= WORTH * short and x.dtype != torch.bfloat16:
        return _by_gram(x, coefficients)
    tall = x.shape[-2] > x.shape[-1]
    for a, b, c in coefficients:
        gram = x.mT @ x if tall else x @ x.mT
        inner = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, x, inner, beta=a) if tall else torch.baddbmm(x, inner, x, beta=a)
    return x


def _by_gram(x: Tensor, coefficients: Coefficients) -> Tensor:
    """The same on the Gram matrix G alone: with Q = aI + bG + cG², X ← QX means G ← QGQ, and X is touched twice.

    8k³ an iteration for 4k²l + 2k³, k the short side. In bf16 the rounding of G would drown small singular values.
    """
    tall = x.shape[-2] > x.shape[-1]
    gram = x.mT @ x if tall else x @ x.mT
    whole = factor = None
    for a, b, c in coefficients:
        if factor is not None:
            gram = factor @ gram @ factor
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        whole = factor if whole is None else factor @ whole
    assert whole is not None
    return x @ whole if tall else whole @ x
