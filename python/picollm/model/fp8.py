"""Matmuls in eight bits, tensorwise: one scale per tensor, found anew each time from its largest value.

Forward operands and weights are e4m3, output gradients e5m2. Master weights stay as they are; what backward keeps of a
layer are its 8-bit operands. A value that is not finite makes the scale NaN or 0 and so the product NaN: the guard of
the step sees it. Only for training: a module in evaluation mode computes as without.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from picollm.model.counts import EIGHT_BIT_MULTIPLE as MULTIPLE
from picollm.model.counts import eight_bit_eligible

FORWARD, BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2
LARGEST = {FORWARD: 448.0, BACKWARD: 57_344.0}
SMALLEST_AMAX = 1e-12  # of a tensor of zeros, which stay zeros


@dataclass(frozen=True)
class Scaled:
    """An 8-bit tensor (m, n); `inverse`, 0-D fp32, gives its values back: values · inverse."""

    values: Tensor
    inverse: Tensor


def quantise(x: Tensor, dtype: torch.dtype) -> Scaled:
    """`x` over the whole range of `dtype`. The scale is found in float64, so that eager and compiled agree."""
    amax = x.abs().amax().double().clamp(min=SMALLEST_AMAX)
    scale = LARGEST[dtype] / amax
    most = LARGEST[dtype]
    values = (x.float() * scale.float()).clamp(-most, most).to(dtype)
    return Scaled(values, (1 / scale).float())


def column_major(x: Tensor) -> Tensor:
    """`x` (m, n) with its columns contiguous."""
    return x.t().contiguous().t()


Matmul = Callable[[Scaled, Scaled, torch.dtype, bool], Tensor]


def by_functional(a: Scaled, b: Scaled, dtype: torch.dtype, fast: bool) -> Tensor:
    """`torch.nn.functional.scaled_mm`."""
    recipe = functional.ScalingType.TensorWise
    return functional.scaled_mm(
        a.values, b.values, a.inverse, recipe, b.inverse, recipe, output_dtype=dtype, use_fast_accum=fast
    )


def by_private(a: Scaled, b: Scaled, dtype: torch.dtype, fast: bool) -> Tensor:
    """`torch._scaled_mm`, where the public one is missing."""
    product: Tensor = torch._scaled_mm(
        a.values, b.values, scale_a=a.inverse, scale_b=b.inverse, out_dtype=dtype, use_fast_accum=fast
    )
    return product


def by_dequantising(a: Scaled, b: Scaled, dtype: torch.dtype, fast: bool) -> Tensor:
    """The same roundings in fp32: where no 8-bit kernel is, and what the others are tested against."""
    return ((a.values.float() @ b.values.float()) * (a.inverse * b.inverse)).to(dtype)


def kernel(device: torch.device) -> Matmul:
    """Which of them runs on `device`."""
    if device.type != "cuda":
        return by_dequantising
    return by_functional if hasattr(functional, "scaled_mm") else by_private


def scaled_mm(a: Scaled, b: Scaled, dtype: torch.dtype, *, fast: bool) -> Tensor:
    """a (m, k) row-major · b (k, n) column-major → (m, n) in `dtype`. `fast`: accumulate in fewer bits.

    The layout that CUDA wants is asserted on every device, so that a CPU test finds a wrong one.
    """
    m, k = a.values.shape
    n = b.values.shape[1]
    assert b.values.shape[0] == k
    assert k % MULTIPLE == 0 and n % MULTIPLE == 0, f"({m}, {k}) · ({k}, {n}): sizes must be multiples of {MULTIPLE}"  # noqa: PT018
    assert a.values.stride() == (k, 1), f"the first operand is not row-major: strides {a.values.stride()}"
    assert b.values.stride() == (1, k), f"the second operand is not column-major: strides {b.values.stride()}"
    return kernel(a.values.device)(a, b, dtype, fast)


def forward_product(x: Scaled, weight: Scaled, dtype: torch.dtype) -> Tensor:
    """x (m, k) · weight (n, k)ᵀ → (m, n)."""
    return scaled_mm(x, Scaled(weight.values.t(), weight.inverse), dtype, fast=True)


def input_gradient(g: Scaled, weight: Scaled, dtype: torch.dtype) -> Tensor:
    """g (m, n) · weight (n, k) → (m, k)."""
    return scaled_mm(g, Scaled(column_major(weight.values), weight.inverse), dtype, fast=False)


def weight_gradient(g: Scaled, x: Scaled, dtype: torch.dtype) -> Tensor:
    """g (m, n)ᵀ · x (m, k) → (n, k)."""
    rows = Scaled(g.values.t().contiguous(), g.inverse)
    return scaled_mm(rows, Scaled(column_major(x.values), x.inverse), dtype, fast=False)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        small_x, small_weight = quantise(x.flatten(0, -2), FORWARD), quantise(weight, FORWARD)
        ctx.save_for_backward(small_x.values, small_x.inverse, small_weight.values, small_weight.inverse)
        ctx.dtypes = x.dtype, weight.dtype
        return forward_product(small_x, small_weight, x.dtype).view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x_values, x_inverse, weight_values, weight_inverse = ctx.saved_tensors
        x, weight = Scaled(x_values, x_inverse), Scaled(weight_values, weight_inverse)
        dtype, stored = ctx.dtypes
        small = quantise(g.flatten(0, -2), BACKWARD)
        by_x = input_gradient(small, weight, dtype).view(*g.shape[:-1], weight.values.shape[1])
        return by_x, weight_gradient(small, x, dtype).to(stored)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x (…, k) · weight (n, k)ᵀ → (…, n) in the dtype of x. The rows of x must be a multiple of 16 together."""
    y: Tensor = _Linear.apply(x, weight)  # type: ignore[no-untyped-call]
    return y


class Head:
    """The last layer's weight (V', C), quantised once for all chunks of a step; of its V' scores the first V count."""

    def __init__(self, weight: Tensor, vocab: int) -> None:
        self.weight, self.vocab = quantise(weight, FORWARD), vocab

    def scores(self, h: Tensor, room: Tensor | None = None) -> Tensor:
        """h (n, C) → (n, V) in its dtype. `room` is not used."""
        return forward_product(quantise(h, FORWARD), self.weight, h.dtype)[:, : self.vocab]

    def add_gradients(self, slope: Tensor, h: Tensor, by_h: Tensor, by_weight: Tensor) -> None:
        """slope (n, V), h (n, C): fills the gradient by h (n, C), adds to that by weight (V', C)."""
        padding = self.weight.values.shape[0] - self.vocab
        small = quantise(functional.pad(slope, (0, padding)) if padding else slope, BACKWARD)
        by_h.copy_(input_gradient(small, self.weight, h.dtype))
        by_weight += weight_gradient(small, quantise(h, FORWARD), h.dtype)


def enable(model: nn.Module) -> tuple[int, int]:
    """Let every eligible linear layer of `model` train in eight bits; (converted, all). Values and names stay."""
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "fp8")]
    for layer in layers:
        layer.fp8 = eight_bit_eligible(*layer.weight.shape)
    return sum(layer.fp8 for layer in layers), len(layers)
