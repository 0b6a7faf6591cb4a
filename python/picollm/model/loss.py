"""Softcapped cross-entropy over chunks of tokens: no (tokens × V) tensor ever exists.

The sum's gradients are formed in the forward pass, chunk by chunk, from logits that are there anyway: three matmuls
and no recomputation. Letters: N tokens, C width, V vocabulary, V' rows of the head (those from V on are never used).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from picollm.model import fp8
from picollm.model.pointwise import exact

IGNORE = -100  # a target that does not count
CHUNK_BYTES = 1 << 28  # of fp32 logits on an accelerator
CHUNK_LEAST, CHUNK_MOST = 512, 8192  # tokens
CHUNK_CPU = 1024
CACHE_BYTES = 1 << 21  # of logits that a CPU works on at a time: the passes over them stay in its cache (dev/LOG.md)


def chunk_tokens(vocab: int, device: torch.device) -> int:
    """Tokens to a chunk: 2048 at V = 32,768 and 1024 at 65,536 on an accelerator."""
    if device.type == "cpu":
        return CHUNK_CPU
    power = 1 << ((CHUNK_BYTES // (4 * vocab)).bit_length() - 1)
    return min(max(power, CHUNK_LEAST), CHUNK_MOST)


def softcapped(z: Tensor, softcap: float | None) -> Tensor:
    """c · tanh(z/c) in place, z itself without a cap."""
    return z if softcap is None else z.div_(softcap).tanh_().mul_(softcap)


def _losses(h: Tensor, weight: Tensor, targets: Tensor, softcap: float | None) -> Tensor:
    """(n,) losses of one chunk, 0 where ignored."""
    y = softcapped(exact(h @ weight.T), softcap)
    valid = targets != IGNORE
    hit = y.gather(1, targets.clamp_min(0)[:, None])[:, 0]
    return torch.where(valid, y.logsumexp(-1) - hit, 0.0)


def _losses_and_slope(
    z: Tensor, targets: Tensor, softcap: float | None, upstream: Tensor | None, room: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(n,) losses of raw logits z (n, V), and (n, V) gradients of Σ upstream · loss by them, in their dtype.

    With t = tanh(z/c) and y = ct: ∂loss/∂z = (softmax(y) − onehot) · (1 − t²). room: (≥ n, V) for the gradients. z is
    used up.
    """
    t = exact(z)
    scale = 1.0 if softcap is None else softcap
    if softcap is not None:
        t.div_(softcap).tanh_()
    valid = targets != IGNORE
    index = targets.clamp_min(0)[:, None]
    peak = t.amax(-1, keepdim=True)
    slope = torch.sub(t, peak, out=None if room is None else room[: z.shape[0]]).mul_(scale).exp_()
    total = slope.sum(-1, keepdim=True)
    losses = torch.where(valid, (total.log() + scale * (peak - t.gather(1, index)))[:, 0], 0.0)
    counted = valid[:, None].to(t.dtype)
    if upstream is not None:
        counted = counted * upstream[:, None].to(t.dtype)
    slope.mul_(counted / total).scatter_add_(1, index, -counted)
    if softcap is not None:
        slope.addcmul_(slope, t.square_(), value=-1)
    return losses, slope.to(z.dtype)


def _in_cache(z: Tensor, targets: Tensor, softcap: float | None, upstream: Tensor | None) -> tuple[Tensor, Tensor]:
    """`_losses_and_slope` of a few rows at a time. The gradients take the place of z."""
    rows = max(1, CACHE_BYTES // (z.element_size() * z.shape[1]))
    room = torch.empty_like(z[:rows])
    losses = []
    for start in range(0, z.shape[0], rows):
        part = slice(start, start + rows)
        loss, slope = _losses_and_slope(
            z[part], targets[part], softcap, None if upstream is None else upstream[part], room
        )
        z[part] = slope
        losses.append(loss)
    return torch.cat(losses), z


class _Head:
    """The head's weight (V', C) in the dtype of the stream; its rows from V on are never used."""

    def __init__(self, weight: Tensor, vocab: int, dtype: torch.dtype) -> None:
        self.weight, self.vocab = weight[:vocab].to(dtype), vocab

    def scores(self, h: Tensor, room: Tensor | None = None) -> Tensor:
        return torch.mm(h, self.weight.T, out=None if room is None else room[: h.shape[0]])

    def add_gradients(self, slope: Tensor, h: Tensor, by_h: Tensor, by_weight: Tensor) -> None:
        torch.mm(slope, self.weight, out=by_h)
        if slope.dtype == by_weight.dtype:
            by_weight[: self.vocab].addmm_(slope.T, h)
        else:
            by_weight[: self.vocab] += slope.T @ h


def _gradients(
    h: Tensor,
    weight: Tensor,
    targets: Tensor,
    vocab: int,
    softcap: float | None,
    chunk: int,
    upstream: Tensor | None,
    eight_bits: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses (N,), gradient by h (N, C) in its dtype, gradient by weight (V', C) in its dtype."""
    head = fp8.Head(weight, vocab) if eight_bits else _Head(weight, vocab, h.dtype)
    by_weight = torch.zeros_like(weight)
    by_h = torch.empty_like(h)
    losses = []
    # A CPU's heap gives a block of this size back to the system, and the next chunk would fault every page in again.
    eager = h.device.type == "cpu" and h.dtype == weight.dtype and not torch.compiler.is_compiling()
    room = h.new_empty(min(chunk, h.shape[0]), vocab) if eager else None
    for start in range(0, h.shape[0], chunk):
        part = slice(start, start + chunk)
        weights = None if upstream is None else upstream[part]
        scores = head.scores(h[part], room)
        loss, slope = (_in_cache if eager else _losses_and_slope)(scores, targets[part], softcap, weights)
        losses.append(loss)
        head.add_gradients(slope, h[part], by_h[part], by_weight)
    return torch.cat(losses), by_h, by_weight


class _LossSum(torch.autograd.Function):
    """The sum. Its gradients are made at once and scaled in place by backward, which may run once."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, weight: Tensor, targets: Tensor, vocab: int, softcap: float | None, chunk: int, fp8: bool
    ) -> Tensor:
        losses, ctx.by_h, ctx.by_weight = _gradients(h, weight, targets, vocab, softcap, chunk, None, fp8)
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.by_h is None:
            raise RuntimeError("the loss was already taken back: its gradients are gone")
        by_h, by_weight = ctx.by_h.mul_(upstream), ctx.by_weight.mul_(upstream)
        ctx.by_h = ctx.by_weight = None
        return by_h, by_weight, None, None, None, None, None


class _Losses(torch.autograd.Function):
    """One loss per token. Backward forms the logits again: what arrives there weighs each token."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, weight: Tensor, targets: Tensor, vocab: int, softcap: float | None, chunk: int
    ) -> Tensor:
        ctx.save_for_backward(h, weight, targets)
        ctx.vocab, ctx.softcap, ctx.chunk = vocab, softcap, chunk
        head = weight[:vocab].to(h.dtype)
        parts = [slice(start, start + chunk) for start in range(0, h.shape[0], chunk)]
        return torch.cat([_losses(h[part], head, targets[part], softcap) for part in parts])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        h, weight, targets = ctx.saved_tensors
        _, by_h, by_weight = _gradients(h, weight, targets, ctx.vocab, ctx.softcap, ctx.chunk, upstream)
        return by_h, by_weight, None, None, None, None


def token_losses(
    h: Tensor, weight: Tensor, targets: Tensor, vocab: int, softcap: float | None, chunk: int | None = None
) -> Tensor:
    """Negative log-likelihood in nats of each target, 0 where it is IGNORE.

    h (…, C) compute dtype; weight (V', C); targets (…) int64 → (…) fp32, or float64 for float64 h.
    """
    chunk = chunk or chunk_tokens(vocab, h.device)
    flat = (h.flatten(0, -2), weight, targets.flatten())
    losses: Tensor = _Losses.apply(*flat, vocab, softcap, chunk)  # type: ignore[no-untyped-call]
    return losses.view(targets.shape)


def loss_sum(
    h: Tensor,
    weight: Tensor,
    targets: Tensor,
    vocab: int,
    softcap: float | None,
    chunk: int | None = None,
    *,
    fp8: bool = False,
) -> Tensor:
    """Sum of `token_losses`, for training: divide it by the step's global count of valid targets.

    Backward works once; a second one is an error. Without gradients only the loss is formed. fp8: the three matmuls of
    a chunk run in eight bits.
    """
    wanted = torch.is_grad_enabled() and (h.requires_grad or weight.requires_grad)
    if not wanted:
        return token_losses(h, weight, targets, vocab, softcap, chunk).sum()
    chunk = chunk or chunk_tokens(vocab, h.device)
    flat = (h.flatten(0, -2), weight, targets.flatten())
    total: Tensor = _LossSum.apply(*flat, vocab, softcap, chunk, fp8)  # type: ignore[no-untyped-call]
    return total
