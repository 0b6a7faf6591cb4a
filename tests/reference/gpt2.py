"""A plain GPT-2 of torch's own parts, and AdamW as nanoGPT sets it: what learning and speed are measured against.

Learned positions, LayerNorm with gain and bias, GELU, biases everywhere, the head tied to the token table; weights from
N(0, 0.02), output projections from N(0, 0.02/√(2L)) (GPT-2). AdamW with β (.9, .95), decay .1 on matrices, gradients
clipped at norm 1, a short warm-up and a cosine to a tenth of the peak (nanoGPT 3adf61e, defaults of train.py).
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from picollm.model.config import ModelConfig
from picollm.plan.schedule import Rates

STD = 0.02
BETAS, DECAY, CLIP, EPS = (0.9, 0.95), 0.1, 1.0, 1e-8
WARMUP, FINAL = 0.05, 0.1


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, T, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(B, T, C))
        added: Tensor = x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))
        return added


class PlainGPT(nn.Module):
    """Depth, width, heads, T and V of `config`; all else is GPT-2's. Windows are not looked at."""

    def __init__(self, config: ModelConfig, seed: int) -> None:
        super().__init__()
        self.config = config
        self.table = nn.Embedding(config.padded_vocab, config.width)
        self.places = nn.Embedding(config.seq_len, config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        generator = torch.Generator().manual_seed(seed)
        for name, param in self.named_parameters():
            if param.ndim == 2:
                ends = name.endswith(("out.weight", "down.weight"))
                std = STD / math.sqrt(2 * config.depth) if ends else STD
                nn.init.normal_(param, 0.0, std, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(param)

    def logits(self, idx: Tensor) -> Tensor:
        """(B, T) → (B, T, V)."""
        x = self.table(idx) + self.places(torch.arange(idx.shape[1], device=idx.device))
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.table.weight[: self.config.vocab_size])

    def forward(self, idx: Tensor, targets: Tensor, documents: Tensor | None = None) -> Tensor:
        """Sum in nats over targets that are not −100."""
        return F.cross_entropy(self.logits(idx).flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")

    def token_losses(self, idx: Tensor, targets: Tensor, documents: Tensor | None = None) -> Tensor:
        """Nats (B, T), 0 where a target is −100."""
        flat = self.logits(idx).flatten(0, 1)
        return F.cross_entropy(flat, targets.flatten(), ignore_index=-100, reduction="none").view(targets.shape)


def cosine(step: int, steps: int) -> float:
    """The multiplier of the peak rate."""
    warm = max(1, round(WARMUP * steps))
    if step < warm:
        return (step + 1) / warm
    return FINAL + (1 - FINAL) * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


class PlainAdamW:
    """torch's AdamW behind the verbs the trainer calls. It keeps its own schedule; `rates` are not looked at."""

    def __init__(self, params: Mapping[str, nn.Parameter], lr: float, steps: int) -> None:
        self.params, self.lr, self.steps, self.done = dict(params), lr, steps, 0
        matrices = [param for param in self.params.values() if param.ndim == 2]
        rest = [param for param in self.params.values() if param.ndim != 2]
        groups = [{"params": matrices, "weight_decay": DECAY}, {"params": rest, "weight_decay": 0.0}]
        self.rule = torch.optim.AdamW(groups, lr, BETAS, EPS, fused=True)

    def grad_norm(self) -> Tensor:
        """Before clipping."""
        return nn.utils.clip_grad_norm_(self.params.values(), CLIP)

    def step(self, rates: Rates, first: bool) -> None:
        for group in self.rule.param_groups:
            group["lr"] = self.lr * cosine(self.done, self.steps)
        self.rule.step()
        self.done += 1

    def zero_grad(self) -> None:
        self.rule.zero_grad(set_to_none=True)

    def not_finite(self) -> list[str]:
        return [name for name, p in self.params.items() if p.grad is not None and not bool(p.grad.isfinite().all())]
