"""The chunked loss against plain autograd."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from picollm.model.loss import IGNORE, chunk_tokens, loss_sum, token_losses

N, C, V, PADDED = 37, 8, 50, 64


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """h (N, C) and weight (V', C) that want gradients; a third of the targets ignored."""
    generator = torch.Generator().manual_seed(1)
    h = (3 * torch.randn(N, C, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()
    weight = torch.randn(PADDED, C, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    targets = torch.randint(0, V, (N,), generator=generator)
    targets[::3] = IGNORE
    return h, weight, targets


def plain(h: Tensor, weight: Tensor, targets: Tensor, softcap: float | None) -> Tensor:
    """(N,) by the book."""
    z = h @ weight[:V].T
    y = z if softcap is None else softcap * torch.tanh(z / softcap)
    return cross_entropy(y, targets, reduction="none")


@pytest.mark.parametrize("softcap", [15.0, 2.0, None])
@pytest.mark.parametrize("chunk", [1, 5, 37, 512])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_sum_and_gradients_are_autograds(softcap: float | None, chunk: int, dtype: torch.dtype, bound: float) -> None:
    h, weight, targets = inputs(dtype)
    expected = plain(h, weight, targets, softcap).sum() / 7
    wanted = torch.autograd.grad(expected, (h, weight))
    found = loss_sum(h, weight, targets, V, softcap, chunk) / 7
    torch.testing.assert_close(found, expected, rtol=bound, atol=bound)
    for mine, theirs in zip(torch.autograd.grad(found, (h, weight)), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=bound, atol=bound)


def test_without_a_softcap_it_is_torchs_linear_cross_entropy() -> None:
    if not hasattr(torch.nn.functional, "linear_cross_entropy"):
        pytest.skip("this torch has no functional.linear_cross_entropy")
    h, weight, targets = inputs(torch.float32)
    theirs = torch.nn.functional.linear_cross_entropy(h, weight[:V], targets, reduction="sum", ignore_index=IGNORE)
    wanted = torch.autograd.grad(theirs, (h, weight))
    found = loss_sum(h, weight, targets, V, None, 5)
    torch.testing.assert_close(found, theirs, rtol=1e-5, atol=1e-5)
    for mine, other in zip(torch.autograd.grad(found, (h, weight)), wanted, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("softcap", [15.0, None])
@pytest.mark.parametrize("chunk", [5, 512])
def test_each_loss_and_any_weighing_of_them_are_autograds(softcap: float | None, chunk: int) -> None:
    h, weight, targets = inputs()
    upstream = torch.randn(N, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected, found = plain(h, weight, targets, softcap), token_losses(h, weight, targets, V, softcap, chunk)
    torch.testing.assert_close(found, expected)
    for mine, theirs in zip(*(torch.autograd.grad(x, (h, weight), upstream) for x in (found, expected)), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("softcap", [15.0, None])
def test_gradients_pass_the_finite_difference_check(softcap: float | None) -> None:
    h, weight, targets = inputs()
    h, weight = h[:5].detach().requires_grad_(), weight[:9].detach().requires_grad_()
    targets = targets[:5].clamp(max=8)
    assert torch.autograd.gradcheck(lambda h, weight: token_losses(h, weight, targets, 9, softcap, 2), (h, weight))


@pytest.mark.parametrize("rows", [(), (4,), (2, 3)])
def test_shapes_follow_the_targets(rows: tuple[int, ...]) -> None:
    h, targets = torch.zeros(*rows, 4, C), torch.zeros(*rows, 4, dtype=torch.int64)
    found = token_losses(h, torch.zeros(PADDED, C), targets, V, 15.0)
    assert found.shape == targets.shape
    torch.testing.assert_close(found, torch.full_like(found, float(torch.tensor(V).log())))


def test_nothing_asked_costs_nothing_and_stays_finite() -> None:
    h, weight, _ = inputs()
    targets = torch.full((N,), IGNORE)
    total = loss_sum(h, weight, targets, V, 15.0)
    assert total.item() == 0
    for grad in torch.autograd.grad(total, (h, weight)):
        assert not grad.any()
    assert not token_losses(h, weight, targets, V, 15.0).any()


@pytest.mark.parametrize("softcap", [15.0, 1000.0, None])
def test_huge_logits_stay_finite(softcap: float | None) -> None:
    h, weight, targets = inputs(torch.float32)
    total = loss_sum((h * 1e4).detach().requires_grad_(), weight, targets, V, softcap)
    assert bool(torch.isfinite(total))
    assert all(bool(torch.isfinite(grad).all()) for grad in torch.autograd.grad(total, weight))


def test_a_second_backward_is_an_error() -> None:
    h, weight, targets = inputs()
    total = loss_sum(h, weight, targets, V, 15.0)
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="already"):
        total.backward()


def test_padded_columns_get_no_gradient() -> None:
    h, weight, targets = inputs()
    loss_sum(h, weight, targets, V, 15.0).backward()
    assert weight.grad is not None
    assert not weight.grad[V:].any()
    assert weight.grad[:V].any(dim=1).all()


class Largest(TorchDispatchMode):
    """The most elements of any tensor made."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.most = max(self.most, made.numel())
        return made


def test_no_tensor_of_tokens_by_vocabulary_exists() -> None:
    h, weight, targets = (
        torch.randn(640, C, requires_grad=True),
        torch.randn(PADDED, C, requires_grad=True),
        torch.zeros(640),
    )
    with Largest() as seen:
        loss_sum(h, weight, targets.long(), V, 15.0, 16).backward()
        token_losses(h, weight, targets.long(), V, 15.0, 16).sum().backward()
    assert seen.most == 640 * C


def test_bf16_is_within_a_hundredth() -> None:
    h, weight, targets = inputs(torch.float32)
    exact = loss_sum(h, weight, targets, V, 15.0)
    rough = loss_sum(h.bfloat16(), weight, targets, V, 15.0)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=1e-2, atol=0)
    for mine, theirs in zip(*(torch.autograd.grad(x, (h, weight)) for x in (rough, exact)), strict=True):
        assert mine.dtype == theirs.dtype
        assert float((mine - theirs).norm() / theirs.norm()) < 2e-2


@pytest.mark.parametrize(("vocab", "tokens"), [(32_768, 2048), (65_536, 1024), (4096, 8192), (265, 8192)])
def test_a_chunk_holds_a_quarter_gigabyte_of_logits(vocab: int, tokens: int) -> None:
    assert chunk_tokens(vocab, torch.device("cuda")) == tokens
