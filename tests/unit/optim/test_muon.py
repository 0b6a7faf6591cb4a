"""Muon: the polar factor against the SVD, the rule against its twin and against torch's."""

import numpy as np
import pytest
import torch
from tests.reference.muon import Muon
from torch import Tensor

from picollm.optim.muon import evening, muon_, normalising, second_shape
from picollm.optim.polar import SAFETY, polar
from picollm.plan.rates import MuonGroup

SHAPES = [(48, 48), (64, 16), (16, 64)]
PLAIN = MuonGroup(lr=0.02, equilibrate=False, renormalise=False, normuon=False, cautious=False)


def gaussian(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def direction(g: Tensor, group: MuonGroup = PLAIN, *, half: bool = False) -> Tensor:
    """What the first step moves, without momentum or decay: g (m, l) → (m, l)."""
    p, momentum = torch.zeros_like(g)[None], torch.zeros_like(g)[None]
    second = torch.zeros(second_shape(1, *g.shape), dtype=g.dtype)
    muon_(p, g.clone()[None], momentum, second, 1.0, 0.0, 0.0, group, half=half)
    return -p[0] / max(1.0, g.shape[0] / g.shape[1]) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_singular_values_from_a_thousandth_on_become_one(dtype: torch.dtype) -> None:
    values = torch.logspace(-3, 0, 40, dtype=torch.float64)
    values = values / (SAFETY * values.norm())
    values[values < 1e-3] = 1e-3
    u, _ = torch.linalg.qr(gaussian(60, 40, dtype=torch.float64))
    v, _ = torch.linalg.qr(gaussian(40, 40, seed=1, dtype=torch.float64))
    found = torch.linalg.svdvals(polar((u * values @ v.T).to(dtype)[None])[0].double())
    assert 0.85 < float(found.min()) < float(found.max()) < 1.15


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("half", [False, True])
def test_the_direction_is_the_polar_factor_of_the_equilibrated_matrix(shape: tuple[int, int], half: bool) -> None:
    g = gaussian(*shape) * torch.logspace(-3, 3, shape[0])[:, None]
    even = g.double() / g.double().norm(dim=1, keepdim=True)
    u, _, v = torch.linalg.svd(even, full_matrices=False)
    group = MuonGroup(lr=0.02, renormalise=False, normuon=False, cautious=False)
    found = direction(g, group, half=half).double()
    assert float(torch.cosine_similarity(found.flatten(), (u @ v).flatten(), 0)) >= 0.99


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("power", [-100, 100])  # of two: about 1e±30, and exact
def test_extreme_gradients_give_finite_updates(shape: tuple[int, int], power: int) -> None:
    rank_one = gaussian(shape[0], 1) @ gaussian(1, shape[1], seed=1)
    one_zero_row = gaussian(*shape)
    one_zero_row[3] = 0
    for g in (gaussian(*shape), rank_one, one_zero_row):
        for group in (PLAIN, MuonGroup(lr=0.02)):
            found = direction(g * 2.0**power, group)
            assert bool(torch.isfinite(found).all())
            assert torch.equal(found, direction(g, group))
    values = torch.linalg.svdvals(direction(rank_one))
    assert 0.85 < float(values[0]) < 1.15
    assert float(values[1]) < 1e-2


@pytest.mark.parametrize("group", [PLAIN, MuonGroup(lr=0.02), MuonGroup(lr=0.02, equilibrate=False)])
def test_zero_stays_zero_and_recovers(group: MuonGroup) -> None:
    p, momentum, second = gaussian(1, 8, 4), torch.zeros(1, 8, 4), torch.zeros(1, 8, 1)
    before = p.clone()
    muon_(p, torch.zeros(1, 8, 4), momentum, second, 0.1, 0.9, 0.0, group)
    assert torch.equal(p, before)
    muon_(p, gaussian(1, 8, 4), momentum, second, 0.1, 0.9, 0.0, group)
    assert bool(torch.isfinite(p).all())
    assert not torch.equal(p, before)


def test_a_gradient_that_is_not_a_number_is_not_hidden() -> None:
    g = gaussian(8, 8)
    g[2, 3] = float("nan")
    assert bool(torch.isnan(direction(g)).any())


@pytest.mark.parametrize("factor", [1e-8, 1e8])
def test_the_scale_of_the_gradient_does_not_matter(factor: float) -> None:
    found, expected = (direction(gaussian(32, 48) * f, MuonGroup(lr=0.02)) for f in (factor, 1.0))
    assert float((found - expected).norm() / expected.norm()) < 1e-5


GROUPS = {
    "all on": MuonGroup(lr=0.02),
    "all off": PLAIN,
    **{
        f"without {flag}": MuonGroup(lr=0.02, **{flag: False})
        for flag in ("equilibrate", "renormalise", "normuon", "cautious")
    },
}


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("shape", [(6, 6), (12, 5), (5, 12)])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_a_stack_does_what_the_twin_does_to_each(
    name: str, shape: tuple[int, int], dtype: torch.dtype, bound: float
) -> None:
    group = GROUPS[name]
    p = gaussian(3, *shape, dtype=torch.float64)
    twins = [Muon(one.numpy(), group) for one in p]
    p = p.to(dtype)
    momentum, second = torch.zeros_like(p), torch.zeros(second_shape(*p.shape), dtype=dtype)
    for step in range(5):
        g = gaussian(3, *shape, seed=10 + step, dtype=torch.float64)
        mu, decay = 0.85 + 0.02 * step, 0.3
        for one, twin in zip(g, twins, strict=True):
            twin.step(one.numpy(), 0.05, mu, decay)
        muon_(p, g.to(dtype), momentum, second, 0.05, mu, decay, group)
        found = p.double().numpy()
        assert np.abs(found - np.array([twin.p for twin in twins])).max() < bound * np.abs(found).max()


@pytest.mark.parametrize("shape", [(64, 64), (48, 96)])
def test_without_extras_it_goes_where_torchs_muon_goes(shape: tuple[int, int]) -> None:
    jordan = ((3.4445, -4.7750, 2.0315),) * 5
    start = gaussian(*shape) * 0.1
    theirs = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.Muon([theirs], lr=0.02, momentum=0.95, weight_decay=0.1, adjust_lr_fn="original")
    mine, momentum = start.clone()[None], torch.zeros(1, *shape)
    steady = gaussian(*shape, seed=9)
    for step in range(20):
        g = gaussian(*shape, seed=20 + step) + steady
        theirs.grad = g.clone()
        optimizer.step()
        muon_(mine, g[None].clone(), momentum, None, 0.02, 0.95, 0.1, PLAIN, coefficients=jordan)
    apart, moved = (mine[0] - theirs.detach()).norm(), (theirs.detach() - start).norm()
    assert float(apart / moved) <= 0.015


def test_each_row_gets_the_mean_norm_and_the_whole_a_known_one() -> None:
    g = gaussian(2, 16, 24) * torch.logspace(-2, 2, 16)[:, None]
    even = g * normalising(g, equilibrate=True)
    torch.testing.assert_close(even.norm(dim=(1, 2)), torch.full((2,), 1 / SAFETY))
    torch.testing.assert_close(even.norm(dim=2), torch.full((2, 16), 1 / SAFETY / 4))


def test_evening_keeps_the_norm_and_levels_the_rows() -> None:
    x, second = gaussian(2, 16, 8), torch.zeros(2, 16, 1)
    y = x * evening(x, second, MuonGroup(lr=0.02))
    torch.testing.assert_close(y.norm(dim=(1, 2)), torch.full((2,), 8**0.5))
    torch.testing.assert_close(y.norm(dim=2), torch.full((2, 16), (8 / 16) ** 0.5))


def test_cautious_decay_only_helps_updates_that_shrink() -> None:
    p = torch.tensor([[[1.0, -1.0]]])
    before, g = p.clone(), torch.tensor([[[1.0, 1.0]]])
    for decay in (0.0, 0.5):
        p.copy_(before)
        muon_(p, g.clone(), torch.zeros(1, 1, 2), None, 0.1, 0.0, decay,
              MuonGroup(lr=1, normuon=False))  # fmt: skip
        step = 0.1 * 2**-0.5
        torch.testing.assert_close(p, torch.tensor([[[1 - step - 0.1 * decay, -1 - step]]]))
