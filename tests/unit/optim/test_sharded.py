"""The optimizer on a real model, in a world of one."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from picollm.errors import CheckpointError
from picollm.model.config import shape
from picollm.model.gpt import GPT
from picollm.model.init import build
from picollm.model.roles import Role, roles
from picollm.optim.sharded import Optimizer
from picollm.optim.state import arranged
from picollm.plan.rates import optim_plan
from picollm.plan.schedule import Rates
from picollm.runtime.dist import World

CONFIG = shape(2, 256, 64, "L", width=64, heads=2)
RATES = Rates(1.0, 0.9, 0.1)


def parts(stack_most: int = 64 << 20, dtype: torch.dtype = torch.float32) -> tuple[GPT, Optimizer]:
    model = build(CONFIG, 1, dtype=dtype)
    return model, Optimizer(model, roles(model), optim_plan(1 << 16, 10_000, 64), World(), stack_most=stack_most)


def rows(n: int = 8) -> Tensor:
    return torch.randint(0, 256, (n, 65), generator=torch.Generator().manual_seed(1))


def train(model: GPT, optimizer: Optimizer, start: int, end: int, batch: Tensor) -> list[float]:
    losses = []
    for step in range(start, end):
        loss = model.loss_sum(batch[:, :-1], batch[:, 1:]) / batch[:, 1:].numel()
        loss.backward()
        optimizer.step(RATES, first=step == 0)
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def weights(model: GPT) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.slow
def test_one_batch_is_learned_within_a_hundred_steps() -> None:
    torch.manual_seed(0)
    model, optimizer = parts()
    losses = train(model, optimizer, 0, 100, rows())
    assert min(losses) < 0.1


def test_the_first_step_leaves_the_scales_and_their_state_alone() -> None:
    model, optimizer = parts()
    before = weights(model)
    held = {Role.RESID_SCALE, Role.X0_SCALE, Role.BACKOUT_SCALE}
    train(model, optimizer, 0, 1, rows(2))
    for (name, p), old in zip(model.named_parameters(), before, strict=True):
        if roles(model)[name] in held:
            assert torch.equal(p, old), name
            assert optimizer.state_dict()[f"{name}/steps"].item() == 0
    train(model, optimizer, 1, 2, rows(2))
    for (name, p), old in zip(model.named_parameters(), before, strict=True):
        assert not torch.equal(p, old), name


def test_the_norm_is_that_of_the_whole_gradient() -> None:
    model, optimizer = parts()
    batch = rows(2)
    (model.loss_sum(batch[:, :-1], batch[:, 1:]) / 128).backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()
    torch.testing.assert_close(optimizer.grad_norm(), expected)
    model.embed.weight.grad[3, 3] = float("nan")  # type: ignore[index]
    assert bool(optimizer.grad_norm().isnan())


def test_the_size_of_stacks_changes_rounding_only() -> None:
    found = []
    for stack_most in (1, 30_000, 64 << 20):
        model, optimizer = parts(stack_most, torch.float64)
        found.append(train(model, optimizer, 0, 6, rows(2)))
    assert found[0] == pytest.approx(found[1], rel=1e-10)
    assert found[0] == pytest.approx(found[2], rel=1e-10)


def test_a_loaded_state_goes_on_bit_for_bit() -> None:
    model, optimizer = parts()
    train(model, optimizer, 0, 3, rows(2))
    saved = {key: tensor.clone() for key, tensor in optimizer.state_dict().items()}
    values = weights(model)
    expected = train(model, optimizer, 3, 6, rows(2))
    other, fresh = parts()
    with torch.no_grad():
        for p, value in zip(other.parameters(), values, strict=True):
            p.copy_(value)
    fresh.load_state_dict(saved)
    assert train(other, fresh, 3, 6, rows(2)) == expected
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(other), strict=True))


def test_state_is_allocated_before_the_first_step_and_keyed_by_name() -> None:
    model, optimizer = parts()
    before = {key: tensor.shape for key, tensor in optimizer.state_dict().items()}
    train(model, optimizer, 0, 2, rows(2))
    assert {key: tensor.shape for key, tensor in optimizer.state_dict().items()} == before
    assert before["blocks.1.attn.q.weight/momentum"] == (64, 64)
    assert before["blocks.1.mlp.up.weight/second"] == (256, 1)
    assert before["blocks.1.mlp.down.weight/second"] == (1, 256)
    assert before["embed.weight/exp_avg"] == (256, 64)
    assert before["lm_head.weight/steps"] == ()


SPOILED: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "missing": lambda state: state.pop("embed.weight/exp_avg"),
    "unknown": lambda state: state.update({"stranger/momentum": torch.zeros(2)}),
    "halved": lambda state: state.update({"embed.weight/exp_avg[0:128]": state.pop("embed.weight/exp_avg")[:128]}),
    "twice": lambda state: state.update({"embed.weight/exp_avg[0:128]": state["embed.weight/exp_avg"][:128]}),
    "narrow": lambda state: state.update({"embed.weight/exp_avg": torch.zeros(256, 63)}),
    "coarse": lambda state: state.update({"embed.weight/exp_avg": torch.zeros(256, 64, dtype=torch.bfloat16)}),
    "mangled": lambda state: state.update({"embed.weight/exp_avg[a:b]": torch.zeros(1)}),
}


@pytest.mark.parametrize("spoiled", SPOILED)
def test_a_state_that_does_not_fit_is_refused(spoiled: str) -> None:
    _, optimizer = parts()
    state = dict(optimizer.state_dict())
    SPOILED[spoiled](state)
    with pytest.raises(CheckpointError, match=r"embed|stranger"):
        optimizer.load_state_dict(state)


def test_row_ranges_may_come_in_any_order_but_must_tile() -> None:
    keys = dict.fromkeys(("t/m[4:7]", "t/m[0:4]"), torch.zeros(0))
    assert [part.start for part in arranged(keys, {"t/m": (7, 2)})["t/m"]] == [0, 4]
    for wrong in (("t/m[0:4]", "t/m[5:7]"), ("t/m[0:4]", "t/m[3:7]"), ("t/m[1:7]",), ("t/m[0:4]", "t/m[4:8]")):
        with pytest.raises(CheckpointError, match="has 7 rows"):
            arranged(dict.fromkeys(wrong, torch.zeros(0)), {"t/m": (7, 2)})


GOLDEN = (5.544956, 5.169791, 4.642064, 4.080679, 3.542597, 3.037227, 2.558383, 2.106534, 1.712230, 1.343371)


def test_ten_steps_give_the_golden_losses() -> None:
    """Changes only with a reason in the changelog."""
    model, optimizer = parts()
    assert train(model, optimizer, 0, 10, rows(4)) == pytest.approx(GOLDEN, rel=1e-4)
