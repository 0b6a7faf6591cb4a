"""What the ranks of the optimizer's tests do. Runs in processes of its own, or in a world of one."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from picollm.model.config import shape
from picollm.model.gpt import GPT
from picollm.model.init import build
from picollm.model.roles import roles
from picollm.optim.sharded import Optimizer
from picollm.plan.rates import optim_plan
from picollm.plan.schedule import Schedule, rates_at
from picollm.runtime.dist import World

CONFIG = shape(3, 321, 16, "SL", width=80, heads=2, smear=True)  # rows that no small number of ranks divides
ROWS = 12
STEPS = 40


def parts(world: World, dtype: str) -> tuple[GPT, Optimizer]:
    model = build(CONFIG, 1, dtype=getattr(torch, dtype))
    return model, Optimizer(model, roles(model), optim_plan(1 << 17, 10_000, CONFIG.width), world, stack_most=60_000)


def rows_of(step: int) -> Tensor:
    """The ids (ROWS, T + 1) of a step: equal on all ranks."""
    return torch.randint(0, 321, (ROWS, 17), generator=torch.Generator().manual_seed(step % 3))


def train(world: World, dtype: str = "float64", save: str = "") -> dict[str, Any]:
    """Losses and gradient norms of STEPS steps, and a hash of the weights. `save`: where the state goes."""
    torch.manual_seed(world.rank)
    model, optimizer = parts(world, dtype)
    schedule = Schedule(STEPS, 2, 6, 16, 0.1, 0.2)
    losses, norms = [], []
    for step in range(STEPS):
        rows = rows_of(step)
        targets = rows[:, 1:].clone()
        targets[:5, 3:] = -100  # ranks have unequal numbers of targets
        mine = torch.arange(ROWS).tensor_split(world.size)[world.rank]
        total = model.loss_sum(rows[mine, :-1], targets[mine])
        (total / int((targets >= 0).sum())).backward()
        losses.append(float(world.sum_(total.detach().double())))
        norms.append(float(optimizer.grad_norm()))
        optimizer.step(rates_at(step, schedule), first=step == 0)
        optimizer.zero_grad()
    if save:
        store(world, optimizer, Path(save))
    return {"losses": losses, "norms": norms, "weights": fingerprint(model)}


def one_update(world: World, save: str) -> dict[str, Any]:
    """One update by one fixed gradient, all of it on the last rank. `save`: where rank 0 leaves the weights."""
    model, optimizer = parts(world, "float32")
    before = fingerprint(model)
    for seed, param in enumerate(model.parameters()):
        whole = torch.randn(param.shape, generator=torch.Generator().manual_seed(seed))
        param.grad = whole * (world.rank == world.size - 1)
    optimizer.step(rates_at(4, Schedule(STEPS, 2, 6, 16, 0.1, 0.2)), first=False)
    if world.rank == 0:
        save_file({name: param.detach() for name, param in model.named_parameters()}, save)
    return {"before": before, "after": fingerprint(model)}


def reshard(world: World, start: str, save: str) -> None:
    """Load a state that any number of ranks wrote, and write it again."""
    _, optimizer = parts(world, "float64")
    optimizer.load_state_dict(merged(Path(start)))
    store(world, optimizer, Path(save))


def store(world: World, optimizer: Optimizer, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: tensor.clone().contiguous() for key, tensor in optimizer.state_dict().items()}
    save_file(state, folder / f"{world.rank}.safetensors")
    world.barrier()


def merged(folder: Path) -> dict[str, Tensor]:
    """All files of a state; a key in two of them is an error."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.iterdir()):
        tensors = load_file(path)
        assert not tensors.keys() & found.keys()
        found |= tensors
    return found


def fingerprint(model: GPT) -> str:
    digest = hashlib.sha256()
    for p in model.parameters():
        digest.update(p.detach().numpy().tobytes())
    return digest.hexdigest()
