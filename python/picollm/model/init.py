"""Every initial value, by role. Each tensor draws from its own generator, seeded by (seed, name):
neither the order of construction nor the number of ranks nor the device can change a weight.
"""

import hashlib
import math

import torch
from torch import Tensor

from picollm.model.config import ModelConfig
from picollm.model.gpt import GPT
from picollm.model.kernels.protocol import Attend
from picollm.model.roles import TABLES, Role, role_of

EMBED_STD = 0.8
HEAD_STD = 0.001  # the untrained model knows nothing: its loss is ln V
UP_SCALE = 0.4  # of the bound other matrices have
GATE_MOST = 0.02
RESID_FIRST, RESID_FALL = 1.15, 0.10
X0_FIRST, X0_FALL = 0.20, 0.15
BACKOUT = 0.2


def build(
    config: ModelConfig,
    seed: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    attend: Attend | None = None,
) -> GPT:
    """A model with its initial weights. `dtype` is that of the stream.

    Stored: fp32 (float64 if dtype is), but tables in bf16 where CUDA computes in bf16.
    """
    with torch.device("meta"):
        model = GPT(config, attend)
    model.compute_dtype = dtype
    place = torch.device(device)
    model.to_empty(device=place)
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(stored_dtype(role_of(name), place, dtype))
    initialise(model, seed)
    return model


def stored_dtype(role: Role, device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The dtype a weight is kept in, given where it lives and what the stream computes in."""
    if dtype == torch.float64:
        return torch.float64
    halved = role in TABLES and device.type == "cuda" and dtype == torch.bfloat16
    return torch.bfloat16 if halved else torch.float32


@torch.no_grad()
def initialise(model: GPT, seed: int) -> None:
    """Fill every weight with its initial value; nothing that was there before is left."""
    for name, parameter in model.named_parameters():
        parameter.copy_(initial(name, parameter.shape, model.config, seed))


def initial(name: str, shape: torch.Size, config: ModelConfig, seed: int) -> Tensor:
    """The initial value of one weight, fp32 on the CPU. Specification: training, 1.3."""
    generator = torch.Generator().manual_seed(seed_of(seed, name))
    bound = math.sqrt(3 / config.width)  # uniform with standard deviation 1/√C

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(shape).uniform_(low, high, generator=generator)

    if name.endswith((".o.weight", ".down.weight")):
        return torch.zeros(shape)
    if name.endswith("_gate.weight"):
        return uniform(0.0, GATE_MOST)
    if name.endswith(".up.weight"):
        return uniform(-UP_SCALE * bound, UP_SCALE * bound)
    match role_of(name):
        case Role.EMBED:
            return torch.empty(shape).normal_(0.0, EMBED_STD, generator=generator)
        case Role.UNEMBED:
            return torch.empty(shape).normal_(0.0, HEAD_STD, generator=generator)
        case Role.RESID_SCALE:
            return RESID_FIRST - RESID_FALL * _depths(config)
        case Role.X0_SCALE:
            return X0_FIRST - X0_FALL * _depths(config)
        case Role.BACKOUT_SCALE:
            return torch.full(shape, BACKOUT)
        case Role.SMEAR:
            return torch.zeros(shape)
    return uniform(-bound, bound)


def _depths(config: ModelConfig) -> Tensor:
    """0 at the first layer, 1 at the last."""
    return torch.arange(config.depth) / max(config.depth - 1, 1)


def seed_of(seed: int, name: str) -> int:
    """A generator seed of 64 bits for the tensor `name` of the run `seed`."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "little", signed=True)
