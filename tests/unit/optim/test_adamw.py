"""AdamW against its twin and against torch's."""

import pytest
import torch
from tests.reference.adamw import AdamW

from picollm.optim.adamw import adamw_
from picollm.plan.rates import AdamWGroup

GROUPS = [AdamWGroup(0.3, 0.8, 0.995, 0.001), AdamWGroup(0.5, 0.96, 0.95, 0.0), AdamWGroup(0.01, 0.9, 0.99, 0.1, 1e-8)]


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_it_does_what_the_twin_does(group: AdamWGroup, dtype: torch.dtype, bound: float) -> None:
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(7, generator=generator, dtype=torch.float64)
    twin, p = AdamW(p.tolist(), group), p.to(dtype)
    first, second, steps = torch.zeros_like(p), torch.zeros_like(p), torch.zeros(())
    for step in range(30):
        g = torch.randn(7, generator=generator, dtype=torch.float64)
        g[0] = 0
        lr = group.lr * (1 + step % 3)
        twin.step(g.tolist(), lr)
        adamw_(p, g.to(dtype), first, second, steps, lr, group)
    assert p.tolist() == pytest.approx(twin.p, rel=bound, abs=bound)
    assert steps.item() == 30


@pytest.mark.parametrize("group", GROUPS)
def test_it_goes_where_torchs_adamw_goes(group: AdamWGroup) -> None:
    generator = torch.Generator().manual_seed(0)
    mine = torch.randn(5, 3, generator=generator)
    theirs = torch.nn.Parameter(mine.clone())
    betas = (group.beta1, group.beta2)
    optimizer = torch.optim.AdamW([theirs], group.lr, betas, group.eps, group.decay, foreach=False)
    first, second, steps = torch.zeros_like(mine), torch.zeros_like(mine), torch.zeros(())
    for _ in range(100):
        g = torch.randn(5, 3, generator=generator)
        theirs.grad = g
        optimizer.step()
        adamw_(mine, g, first, second, steps, group.lr, group)
    torch.testing.assert_close(mine, theirs.detach(), rtol=1e-5, atol=1e-6)
