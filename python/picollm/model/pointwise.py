"""Norm, activation and rotation with their own backward passes: torch's take twice the time on a CPU in eager mode."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def exact(t: Tensor) -> Tensor:
    """t in at least fp32: where sums, softmax and losses are taken."""
    return t.to(torch.promote_types(t.dtype, torch.float32))


class _RmsNorm(torch.autograd.Function):
    """y = x/√(mean x² + ε) along the last axis; ∂x = (g − y · mean(g y)) / √…"""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        at_least = torch.promote_types(x.dtype, torch.float32)
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=at_least).square_()
        inverse = squares.div_(x.shape[-1]).add_(eps).rsqrt_()
        y: Tensor = (x * inverse).to(x.dtype)
        ctx.save_for_backward(y, inverse)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        y, inverse = ctx.saved_tensors
        along = (g * y).mean(-1, keepdim=True, dtype=inverse.dtype)
        return torch.addcmul(g.to(inverse.dtype), y.to(inverse.dtype), along, value=-1).mul_(inverse).to(y.dtype), None


class _ReluSquared(torch.autograd.Function):
    """relu(x)²; ∂x = 2 g relu(x), zero where relu is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = torch.relu(x)
        ctx.save_for_backward(positive)
        return positive.square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        return torch.mul(g, positive).mul_(2)


class _Rotate(torch.autograd.Function):
    """Turn halves; the gradient turns back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return torch.addcmul(x * cos, _swapped(x), sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return torch.addcmul(g * cos, _swapped(g), sin, value=-1), None, None


def _swapped(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat((b, a), -1)


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm along the last axis, without parameters; statistics in fp32 at least."""
    y: Tensor = _RmsNorm.apply(x, eps)  # type: ignore[no-untyped-call]
    return y


def relu_squared(x: Tensor) -> Tensor:
    """relu(x)², elementwise."""
    y: Tensor = _ReluSquared.apply(x)  # type: ignore[no-untyped-call]
    return y


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(a cos − b sin, b cos + a sin) for the halves (a, b) of each head. x (B, T, H, D).

    cos (cos, cos) and sin (−sin, sin) broadcast to x and want no gradient.
    """
    y: Tensor = _Rotate.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    return y
