"""One attention layer: rotated and normed queries and keys, gated value embeddings, a window."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from picollm.model import fp8
from picollm.model.cache import Span
from picollm.model.config import ModelConfig
from picollm.model.kernels.protocol import Attend, Documents
from picollm.model.kernels.sdpa import attend
from picollm.model.pointwise import rms_norm, rotate

VE_GATE_SCALE = 3.0  # a gate of zero input opens to 1.5: nanochat 92d63d4


class Linear(nn.Module):
    """x · Wᵀ without bias, W (outputs, inputs) cast to the dtype of x; in eight bits while training, if `fp8`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.fp8 = False

    def forward(self, x: Tensor) -> Tensor:
        if self.fp8 and self.training:
            return fp8.linear(x, self.weight)
        return linear(x, self.weight.to(x.dtype))


@dataclass(frozen=True)
class Context:
    """What all layers of one forward pass share. cos, sin broadcast to (B, T, H, D)."""

    cos: Tensor
    sin: Tensor
    attend: Attend
    documents: Documents | None
    span: Span | None


class Attention(nn.Module):
    """Layer `layer` of `config`. All weights without bias."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        wide = config.kv_heads * config.head_dim
        self.q = Linear(config.width, config.width)
        self.k = Linear(config.width, wide)
        self.v = Linear(config.width, wide)
        self.o = Linear(config.width, config.width)
        has_values = layer in config.value_layers
        self.ve_gate = Linear(config.ve_gate_channels, config.kv_heads) if has_values else None
        self.layer, self.window, self.gate_channels = layer, config.windows[layer], config.ve_gate_channels
        self.head_dim, self.eps = config.head_dim, config.norm_eps

    def forward(self, h: Tensor, value_embed: Tensor | None, context: Context) -> Tensor:
        """h (B, T, C) normed; value_embed (B, T, K·D) for a layer that has one → (B, T, C)."""
        B, T, C = h.shape
        q = self._turned(self.q(h), context)
        k = self._turned(self.k(h), context)
        v: Tensor = self.v(h).view(B, T, -1, self.head_dim)
        if self.ve_gate is not None:
            assert value_embed is not None
            gate = torch.sigmoid(self.ve_gate(h[..., : self.gate_channels])) * VE_GATE_SCALE
            v = torch.addcmul(v, gate[..., None], value_embed.view_as(v))
        mixed = self._mix(q, k, v, context)
        out: Tensor = self.o(mixed.reshape(B, T, C))
        return out

    def _turned(self, x: Tensor, context: Context) -> Tensor:
        """Heads of x (B, T, heads · D), normed, turned to their positions and scaled: turning keeps the norm."""
        heads = x.view(*x.shape[:2], -1, self.head_dim)
        return rotate(rms_norm(heads, self.eps), context.cos, context.sin)

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        if context.span is None:
            return context.attend(q, k, v, self.window, context.documents)
        if context.span.whole:
            context.span.keep(self.layer, k, v)
            return context.attend(q, k, v, self.window)
        keys, values = context.span.join(self.layer, k, v)
        return attend(q, keys.to(q.dtype), values.to(q.dtype), context.span.mask(self.window, q.dtype))
