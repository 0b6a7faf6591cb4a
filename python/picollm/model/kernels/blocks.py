"""Windowed attention on a CPU: a block of queries at a time, with only the keys that its window lets through.

A T × T mask makes torch's kernel do all the work and throw most of it away. Here a window W costs T · (W + BLOCK)
scores forward, and the same again backward, where they are formed anew from the logarithms of their sums. Whole rows
are left to torch, whose kernel is the faster one there (dev/LOG.md 2026-11-23). To torch.compile this is one operator:
unrolled, its blocks took two more minutes to compile than they saved in a thousand steps.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from picollm.model.kernels.protocol import Documents, additive, visible
from picollm.model.pointwise import exact

BLOCK = 128  # queries


class Blocks:
    """Two matmuls a block forward, five backward, in the dtype of q and at least fp32."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, window: int | None, documents: Documents | None = None
    ) -> Tensor:
        """See `Attend`."""
        T, shared = q.shape[1], q.shape[2] // k.shape[2]
        if shared > 1:
            k, v = k.repeat_interleave(shared, 2), v.repeat_interleave(shared, 2)
        window = T - 1 if window is None else min(window, T - 1)
        numbers = None if documents is None else documents.starts().cumsum(1)
        mixed: Tensor = windowed(q, k, v, window, numbers)[0]
        return mixed


@torch.library.custom_op("picollm::windowed", mutates_args=())
def windowed(q: Tensor, k: Tensor, v: Tensor, window: int, numbers: Tensor | None) -> tuple[Tensor, Tensor]:
    """softmax(q·kᵀ/√D)·v over windows, and the logarithms of the sums of its exponentials (B·H, T, 1).

    q, k, v (B, T, H, D); numbers (B, T) rise where a document begins.
    """
    scores, values = _Scores(q, k, window, numbers), _folded(v)
    out, sums = torch.empty_like(values), values.new_empty(*values.shape[:2], 1)
    for rows, seen in scores.blocks():
        block = scores.of(rows, seen)
        peak = block.amax(-1, keepdim=True)
        total = block.sub_(peak).exp_().sum(-1, keepdim=True)
        out[:, rows] = torch.bmm(block, values[:, seen]).div_(total)
        sums[:, rows] = total.log_().add_(peak)
    return _unfolded(out, q), sums


@torch.library.custom_op("picollm::windowed_backward", mutates_args=())
def windowed_backward(
    by_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, sums: Tensor, window: int, numbers: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by q, k and v, from that by the output."""
    scores, values, up = _Scores(q, k, window, numbers), _folded(v), _folded(by_out)
    shift = (up * _folded(out)).sum(-1, keepdim=True)
    by_q, by_k, by_v = torch.empty_like(values), torch.zeros_like(values), torch.zeros_like(values)
    for rows, seen in scores.blocks():
        weights = scores.of(rows, seen).sub_(sums[:, rows]).exp_()
        by_v[:, seen].baddbmm_(weights.mT, up[:, rows])
        slope = torch.bmm(up[:, rows], values[:, seen].mT).sub_(shift[:, rows]).mul_(weights)
        by_q[:, rows] = torch.bmm(slope, scores.keys[:, seen])
        by_k[:, seen].baddbmm_(slope.mT, scores.scaled[:, rows])
    by_q.mul_(scores.scale)
    return _unfolded(by_q, q), _unfolded(by_k, q), _unfolded(by_v, q)


@windowed.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, window: int, numbers: Tensor | None) -> tuple[Tensor, Tensor]:
    B, T, H, _D = q.shape
    return torch.empty_like(q, memory_format=torch.contiguous_format), exact(q.new_empty(B * H, T, 1))


@windowed_backward.register_fake
def _(by_out: Tensor, q: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    found = [torch.empty_like(q, memory_format=torch.contiguous_format) for _ in range(3)]
    return found[0], found[1], found[2]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, ctx.window, numbers = inputs
    ctx.save_for_backward(q, k, v, *output, numbers)


def _take_back(ctx: Any, by_out: Tensor, by_sums: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, out, sums, numbers = ctx.saved_tensors
    return *windowed_backward(by_out, q, k, v, out, sums, ctx.window, numbers), None, None


windowed.register_autograd(_take_back, setup_context=_keep)


class _Scores:
    """Scores of one block of queries at a time, −∞ where a key is not seen."""

    def __init__(self, q: Tensor, k: Tensor, window: int, numbers: Tensor | None) -> None:
        self.scale = 1 / math.sqrt(q.shape[-1])
        self.scaled, self.keys = _folded(q).mul(self.scale), _folded(k)
        self.window, self.numbers, self.heads = window, numbers, q.shape[2]
        queries = torch.arange(min(BLOCK, q.shape[1]), device=q.device)
        around = torch.arange(-window, queries.shape[0], device=q.device)
        self.band = additive(visible(queries, around, window), self.scaled.dtype)  # of any block: keys from −W on

    def blocks(self) -> Iterator[tuple[slice, slice]]:
        """Places of the queries and of the keys that at least one of them sees."""
        T = self.scaled.shape[1]
        for start in range(0, T, BLOCK):
            end = min(start + BLOCK, T)
            yield slice(start, end), slice(max(0, start - self.window), end)

    def of(self, rows: slice, seen: slice) -> Tensor:
        """(B·H, queries, keys)"""
        first = seen.start - rows.start + self.window
        band = self.band[: rows.stop - rows.start, first : first + seen.stop - seen.start]
        scores = torch.bmm(self.scaled[:, rows], self.keys[:, seen].mT).add_(band)
        if self.numbers is not None:
            other = self.numbers[:, rows, None] != self.numbers[:, None, seen]
            scores.masked_fill_(other.repeat_interleave(self.heads, 0), float("-inf"))
        return scores


def _folded(t: Tensor) -> Tensor:
    """(B, T, H, D) → (B·H, T, D), at least fp32."""
    return exact(t).transpose(1, 2).reshape(-1, t.shape[1], t.shape[3])


def _unfolded(t: Tensor, like: Tensor) -> Tensor:
    """(B·H, T, D) → (B, T, H, D) in memory too, as `like`."""
    B, T, H, D = like.shape
    return t.view(B, H, T, D).transpose(1, 2).to(like.dtype).contiguous()
