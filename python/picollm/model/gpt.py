"""The network: embedding, blocks on a stream that remembers its start, an untied head."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from torch.utils.checkpoint import checkpoint

from picollm.model.attention import Attention, Context, Linear
from picollm.model.cache import Cache, Span
from picollm.model.config import ModelConfig
from picollm.model.kernels.protocol import Attend, Documents
from picollm.model.kernels.sdpa import Sdpa
from picollm.model.loss import loss_sum, token_losses
from picollm.model.pointwise import exact, relu_squared, rms_norm
from picollm.model.rope import Rope

MLP_RATIO = 4


class Table(nn.Module):
    """One row per id: weight (V', width)."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width))

    def forward(self, idx: Tensor) -> Tensor:
        return embedding(idx, self.weight)


class MLP(nn.Module):
    """down(relu(up(h))²), hidden 4C."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = Linear(width, MLP_RATIO * width)
        self.down = Linear(MLP_RATIO * width, width)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.down(relu_squared(self.up(h)))
        return out


class Block(nn.Module):
    """Attention, then MLP, each on the normed stream and added to it."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attn = Attention(config, layer)
        self.mlp = MLP(config.width)
        self.eps = config.norm_eps

    def forward(self, x: Tensor, value_embed: Tensor | None, context: Context) -> Tensor:
        x = x + self.attn(rms_norm(x, self.eps), value_embed, context)
        out: Tensor = x + self.mlp(rms_norm(x, self.eps))
        return out


class GPT(nn.Module):
    """A model of `config`, its weights not yet filled: `model.init.build` makes one to use.

    Ids are int32 or int64 (B, T). `compute_dtype` is that of the stream; scores, logits and losses are at least fp32.
    `recompute`: keep less for backward, for a third more time; the numbers are the same.
    """

    def __init__(self, config: ModelConfig, attend: Attend | None = None) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = torch.float32
        self.recompute = False
        self.attend: Attend = attend or Sdpa()
        self.rope = Rope(config.head_dim, config.rope_base, config.qk_scale, config.seq_len)
        C, V = config.width, config.padded_vocab
        wide = config.kv_heads * config.head_dim
        self.embed = Table(V, C)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.depth))
        self.value_embeds = nn.ModuleDict({str(i): Table(V, wide) for i in config.value_layers})
        self.lm_head = Linear(C, V)
        if config.resid_scales:
            self.resid_scale = nn.Parameter(torch.empty(config.depth))
            self.x0_scale = nn.Parameter(torch.empty(config.depth))
        if config.backout:
            self.backout_scale = nn.Parameter(torch.empty(1))
            # Half depth; two layers have their middle before the last, where the norm would undo any factor.
            self.middle = min(config.depth // 2, config.depth - 2)
        if config.smear:
            self.smear_gate = Linear(config.smear_channels, 1)
            self.smear_scale = nn.Parameter(torch.empty(1))

    def hidden(
        self,
        idx: Tensor,
        documents: Tensor | None = None,
        cache: Cache | None = None,
        counts: Sequence[int] | None = None,
    ) -> Tensor:
        """The final normed stream (B, T, C), in the compute dtype.

        documents (B, T): ids of documents, which then do not see each other. cache: idx follows what it holds, and of
        row b the first `counts[b]` ids are kept there.
        """
        assert documents is None or cache is None
        span = None if cache is None else cache.extend(idx, counts)
        marks = None if documents is None else Documents(documents)
        x0 = self._embedded(idx)
        if self.config.smear:
            x0 = self._smeared(x0, marks, span)
        context = self._context(x0, marks, span)
        resid, start = self._scales(x0)
        x, middle = x0, x0
        for i, block in enumerate(self.blocks):
            if self.config.resid_scales:
                x = torch.addcmul(x * resid[i], x0, start[i])
            key = str(i)
            values = self.value_embeds[key](idx).to(x.dtype) if key in self.value_embeds else None
            x = self._through(block, x, values, context)
            if self.config.backout and i == self.middle:
                middle = x
        if self.config.backout:
            x = torch.addcmul(x, middle, self.backout_scale.to(x.dtype), value=-1)
        return self._normed(x)

    def head(self, h: Tensor) -> Tensor:
        """Softcapped logits of h (…, C): (…, V), at least fp32; padded columns are cut off."""
        V = self.config.vocab_size
        z = exact(h @ self.lm_head.weight[:V].to(h.dtype).T)
        return z if self.config.softcap is None else self.config.softcap * torch.tanh(z / self.config.softcap)

    def logits(self, idx: Tensor, cache: Cache | None = None, documents: Tensor | None = None) -> Tensor:
        """Softcapped logits (B, T, V) for the token after each of idx (B, T)."""
        return self.head(self.hidden(idx, documents, cache))

    def loss_sum(self, idx: Tensor, targets: Tensor, documents: Tensor | None = None) -> Tensor:
        """Sum in nats over targets (B, T) that are not −100. Its backward works once."""
        h = self.hidden(idx, documents)
        fp8 = self.lm_head.fp8 and self.training
        return loss_sum(h, self.lm_head.weight, targets, self.config.vocab_size, self.config.softcap, fp8=fp8)

    def token_losses(self, idx: Tensor, targets: Tensor, documents: Tensor | None = None) -> Tensor:
        """Nats (B, T) of each target, 0 where it is −100."""
        h = self.hidden(idx, documents)
        return token_losses(h, self.lm_head.weight, targets, self.config.vocab_size, self.config.softcap)

    forward = loss_sum

    def _through(self, block: nn.Module, x: Tensor, values: Tensor | None, context: Context) -> Tensor:
        """One block; with `recompute` only its inputs are kept, and backward runs it once more."""
        if self.recompute and self.training and torch.is_grad_enabled():
            again: Tensor = checkpoint(block, x, values, context, use_reentrant=False, preserve_rng_state=False)
            return again
        out: Tensor = block(x, values, context)
        return out

    def _normed(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.config.norm_eps)

    def _embedded(self, idx: Tensor) -> Tensor:
        return self._normed(self.embed(idx).to(self.compute_dtype))

    def _scales(self, x: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        if not self.config.resid_scales:
            return (), ()
        return self.resid_scale.to(x.dtype).unbind(), self.x0_scale.to(x.dtype).unbind()

    def _context(self, x: Tensor, documents: Documents | None, span: Span | None) -> Context:
        end = x.shape[1] if span is None else span.end
        cos, sin = self.rope.tables(end, x.device, x.dtype)
        if span is None:
            cos, sin = cos[None, :end, None], sin[None, :end, None]
        else:
            cos, sin = cos[span.places][:, :, None], sin[span.places][:, :, None]
        return Context(cos, sin, self.attend, documents, span)

    def _smeared(self, x: Tensor, documents: Documents | None, span: Span | None) -> Tensor:
        """Add to each token a gated part of the one before it, within its document."""
        if span is None:
            before = torch.cat((torch.zeros_like(x[:, :1]), x[:, :-1]), 1)
            if documents is not None:
                before = before.masked_fill(documents.starts()[..., None], 0.0)
        else:
            before = self._embedded(span.previous_ids()).masked_fill((span.places == 0)[..., None], 0.0)
        gate = torch.sigmoid(self.smear_gate(x[..., : self.config.smear_channels]))
        return x + self.smear_scale.to(x.dtype) * gate * before
