"""Hand-written backward passes against finite differences and torch's own operations."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import relu
from torch.nn.functional import rms_norm as torchs

from picollm.model.pointwise import relu_squared, rms_norm, rotate
from picollm.model.rope import Rope

EPS = 2.0**-23


def turned(x: Tensor) -> Tensor:
    cos, sin = Rope(8, 100.0, 1.2, 4).tables(5, x.device, x.dtype)
    return rotate(x, cos[:5, None], sin[:5, None])


RULES: dict[str, Callable[[Tensor], Tensor]] = {
    "norm": lambda x: rms_norm(x, EPS),
    "relu²": relu_squared,
    "rotation": turned,
}


def inputs(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, 5, 3, 8, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()


@pytest.mark.parametrize("rule", RULES)
def test_gradients_are_finite_differences(rule: str) -> None:
    assert torch.autograd.gradcheck(RULES[rule], inputs())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_norm_and_activation_are_torchs(dtype: torch.dtype) -> None:
    upstream = torch.randn(2, 5, 3, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    for mine, theirs in ((lambda x: rms_norm(x, EPS), lambda x: torchs(x, (8,), eps=EPS)),
                         (relu_squared, lambda x: relu(x).square())):  # fmt: skip
        found, expected = inputs(dtype), inputs(dtype)
        torch.testing.assert_close(mine(found), theirs(expected))
        mine(found).backward(upstream)
        theirs(expected).backward(upstream)
        assert found.grad is not None
        assert found.grad.dtype == dtype
        torch.testing.assert_close(found.grad, expected.grad, rtol=None if dtype != torch.bfloat16 else 2e-2,
                                   atol=None if dtype != torch.bfloat16 else 2e-2)  # fmt: skip


def test_a_zero_row_has_a_zero_norm_and_a_finite_gradient() -> None:
    x = torch.zeros(2, 8, requires_grad=True)
    y = rms_norm(x, EPS)
    assert not y.any()
    y.sum().backward()
    assert x.grad is not None
    assert bool(torch.isfinite(x.grad).all())


def test_rotation_keeps_the_norm_but_for_its_scale_and_depends_on_distance_alone() -> None:
    x = inputs().detach()
    torch.testing.assert_close(turned(x).norm(dim=-1), 1.2 * x.norm(dim=-1))
    q, k = torch.ones(5, 1, 8, dtype=torch.float64), torch.arange(8.0, dtype=torch.float64).expand(5, 1, 8)
    scores = torch.einsum("thd,shd->ts", turned(q[None])[0], turned(k[None])[0])
    torch.testing.assert_close(scores[0, 2], scores[2, 4])


def test_tables_grow_on_demand_and_keep_what_they_had() -> None:
    rope = Rope(8, 100.0, 1.0, 4)
    cpu = torch.device("cpu")
    short, long = rope.tables(4, cpu, torch.float32), rope.tables(9, cpu, torch.float32)
    assert len(short[0]) == 4
    assert len(long[0]) == 16
    for before, after in zip(short, long, strict=True):
        assert torch.equal(before, after[:4])
    assert rope.tables(16, cpu, torch.float32) is long
