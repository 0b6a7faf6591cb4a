"""Eight-bit matmuls against exact ones, and against each other; what a model trains with them."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from picollm.model import fp8
from picollm.model.config import shape
from picollm.model.counts import eight_bit_layers
from picollm.model.gpt import GPT
from picollm.model.init import build
from picollm.model.loss import loss_sum
from picollm.model.roles import roles
from picollm.optim.sharded import Optimizer
from picollm.plan.rates import optim_plan
from picollm.plan.schedule import Schedule, rates_at
from picollm.runtime.dist import World

SHAPES = [(256, 384, 128), (64, 128, 512), (1024, 256, 256)]  # rows, inputs, outputs


def randn(*size: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def distance(found: Tensor, wanted: Tensor) -> float:
    """Relative, in the Frobenius norm."""
    found, wanted = found.detach().double(), wanted.detach().double()
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e20])
def test_output_and_gradients_are_near_the_exact_ones(size: tuple[int, int, int], scale: float) -> None:
    rows, inputs, outputs = size
    x, weight = randn(rows, inputs, scale=scale).requires_grad_(), randn(outputs, inputs, seed=1).requires_grad_()
    upstream = randn(rows, outputs, seed=2)
    found, wanted = fp8.linear(x, weight), functional.linear(x, weight)
    assert distance(found, wanted) <= 0.05
    mine, theirs = (torch.autograd.grad(y, (x, weight), upstream) for y in (found, wanted))
    for one, other in zip(mine, theirs, strict=True):
        assert distance(one, other) <= 0.08
        assert one.dtype == other.dtype


def test_gradients_come_in_the_dtypes_of_what_they_are_for() -> None:
    x, weight = randn(32, 128).bfloat16().requires_grad_(), randn(256, 128, seed=1).requires_grad_()
    y = fp8.linear(x.view(2, 16, 128), weight)
    assert (y.shape, y.dtype) == ((2, 16, 256), torch.bfloat16)
    by_x, by_weight = torch.autograd.grad(y.float().sum(), (x, weight))
    assert (by_x.dtype, by_weight.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.row("C16")
def test_zeros_stay_zero_the_largest_value_is_kept_and_nothing_overflows() -> None:
    zeros = fp8.quantise(torch.zeros(16, 16), fp8.FORWARD)
    assert not zeros.values.float().any()
    assert bool(zeros.inverse.isfinite())
    for dtype, most in fp8.LARGEST.items():
        for scale in (1e-30, 1.0, 3e38):
            small = fp8.quantise(torch.tensor([[scale, -scale / 2]]), dtype)
            assert (
                small.values.float().tolist() in ([[most, -most / 2]], [[scale / 1e-12 * most, 0.0]]) or scale < 1e-12
            )
            assert bool(small.values.float().isfinite().all())


@pytest.mark.row("C16", "C7")
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_cannot_hide(bad: float) -> None:
    x = randn(32, 128)
    x[3, 5] = bad
    assert not bool(fp8.linear(x, randn(128, 128, seed=1)).isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernel", [fp8.by_functional, fp8.by_private])
def test_torch_s_kernels_round_as_dequantising_does(kernel: fp8.Matmul, dtype: torch.dtype) -> None:
    if kernel is fp8.by_functional and not hasattr(functional, "scaled_mm"):
        pytest.skip("this torch has no functional.scaled_mm")
    a, b = fp8.quantise(randn(64, 128), fp8.FORWARD), fp8.quantise(randn(256, 128, seed=1), fp8.FORWARD)
    b = fp8.Scaled(b.values.t(), b.inverse)
    try:
        found = kernel(a, b, dtype, False)
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"no CPU kernel in torch {torch.__version__}: {error}")
    wanted = fp8.by_dequantising(a, b, torch.float32, False)
    torch.testing.assert_close(found.float(), wanted, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-4)


def test_layouts_that_cuda_refuses_are_refused_here() -> None:
    a, b = fp8.quantise(randn(32, 128), fp8.FORWARD), fp8.quantise(randn(128, 64, seed=1), fp8.FORWARD)
    right = fp8.Scaled(fp8.column_major(b.values), b.inverse)
    fp8.scaled_mm(a, right, torch.float32, fast=True)
    wrong = [(a, b), (fp8.Scaled(fp8.column_major(a.values), a.inverse), right)]
    odd = fp8.quantise(randn(32, 100), fp8.FORWARD)
    wrong.append((odd, fp8.Scaled(fp8.column_major(fp8.quantise(randn(100, 64), fp8.FORWARD).values), b.inverse)))
    for one, other in wrong:
        with pytest.raises(AssertionError):
            fp8.scaled_mm(one, other, torch.float32, fast=True)


@pytest.mark.parametrize("vocab", [512, 500])
def test_the_chunked_loss_and_its_gradients_are_near_the_exact_ones(vocab: int) -> None:
    h, weight = randn(96, 128).requires_grad_(), randn(512, 128, seed=1, scale=0.1).requires_grad_()
    targets = torch.randint(vocab, (96,), generator=torch.Generator().manual_seed(3))
    found = loss_sum(h, weight, targets, vocab, 15.0, 32, fp8=True)
    wanted = loss_sum(h, weight, targets, vocab, 15.0, 32)
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=1e-2)
    mine, theirs = (torch.autograd.grad(loss, (h, weight)) for loss in (found, wanted))
    for one, other in zip(mine, theirs, strict=True):
        assert distance(one, other) <= 0.1
    assert not mine[1][vocab:].any()


@pytest.mark.row("K36")
@pytest.mark.parametrize(("depth", "converted", "every"), [(12, 73, 79), (18, 109, 118), (24, 145, 157)])
def test_the_filter_takes_the_large_layers_and_the_plan_counts_them(depth: int, converted: int, every: int) -> None:
    config = shape(depth, 32_768)
    assert eight_bit_layers(config) == (converted, every)
    with torch.device("meta"):
        model = GPT(config)
    assert fp8.enable(model) == (converted, every)
    skipped = {name for name, module in model.named_modules() if getattr(module, "fp8", True) is False}
    assert skipped == {f"blocks.{i}.attn.ve_gate" for i in config.value_layers}


def small_model() -> GPT:
    return build(shape(2, 512, 64, "L", width=128, head_dim=64), 1)


def test_evaluation_and_weights_are_those_of_a_model_without_it() -> None:
    plain, eight = small_model(), small_model()
    names = [id(module) for module in eight.modules()]
    fp8.enable(eight)
    assert [id(module) for module in eight.modules()] == names
    assert plain.state_dict().keys() == eight.state_dict().keys()
    with torch.no_grad():
        for model in (plain, eight):
            for parameter in model.parameters():
                parameter.add_(0.01)
    rows = torch.randint(512, (2, 65), generator=torch.Generator().manual_seed(4))
    losses = {}
    for training in (False, True):
        for model in (plain, eight):
            model.train(training)
            losses[model is eight, training] = float(model.loss_sum(rows[:, :-1], rows[:, 1:]).detach())
    assert losses[True, False] == losses[False, False] == losses[False, True] != losses[True, True]


def counting(step: int) -> Tensor:
    """Rows that count in steps of 1, 2 or 3, from anywhere."""
    starts = torch.randint(512, (8, 1), generator=torch.Generator().manual_seed(step))
    return (starts + torch.arange(65) * (1 + torch.arange(8)[:, None] % 3)) % 512


def learned(eight: bool, steps: int = 60) -> float:
    """Mean loss per token over the second half of a short training."""
    model = small_model()
    if eight:
        fp8.enable(model)
    optimizer = Optimizer(model, roles(model), optim_plan(1 << 15, 10_000, 128), World())
    schedule = Schedule(steps, 2, 10, 20, 0.1, 0.0)
    losses = []
    for step in range(steps):
        rows = counting(step)
        loss = model.loss_sum(rows[:, :-1], rows[:, 1:]) / 512
        loss.backward()
        optimizer.step(rates_at(step, schedule), first=step == 0)
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return 2 * sum(losses[steps // 2 :]) / steps


@pytest.mark.slow
def test_a_model_learns_as_fast_in_eight_bits() -> None:
    assert learned(True) == pytest.approx(plain := learned(False), rel=0.02)
    assert plain < 4.0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_compiles_to_one_graph_with_the_same_numbers() -> None:
    rows = torch.randint(512, (2, 65), generator=torch.Generator().manual_seed(6))
    found = []
    for compiled in (False, True):
        model = small_model()
        fp8.enable(model)
        torch._dynamo.reset()
        run = torch.compile(model.loss_sum, fullgraph=True, dynamic=False) if compiled else model.loss_sum
        loss = run(rows[:, :-1], rows[:, 1:])
        loss.backward()
        found.append((float(loss.detach()), float(model.lm_head.weight.grad.norm())))  # type: ignore[union-attr]
    assert found[1] == pytest.approx(found[0], rel=1e-3)
