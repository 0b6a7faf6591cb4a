"""What a loader hands to a step."""

from dataclasses import dataclass

import torch
from torch import Tensor

IGNORE = -100  # a target that is none


@dataclass(frozen=True)
class Batch:
    """B rows for one rank. `targets` is −100 where nothing is to be learned: padding, masked slots, users' words.

    inputs (B, T) int32 · targets (B, T) int64 · documents (B, T) int32 or None: equal numbers may attend to each
    other · cu_seqlens (N) int32 or None: where documents begin among the B·T inputs, then B·T; N is always the same.
    """

    inputs: Tensor
    targets: Tensor
    documents: Tensor | None = None
    cu_seqlens: Tensor | None = None


def widened(tokens: Tensor, fill: Tensor, mask: int | None = None) -> tuple[Tensor, Tensor]:
    """Stored tokens → inputs (B, T) int32 and targets (B, T) int64.

    tokens (B, T + 1): int16 holding unsigned ids, or int32. fill (B) int32: real tokens of each row; targets beyond
    them are −100. mask: an id that is no target either.
    """
    ids = tokens.to(torch.int32) & 0xFFFF if tokens.dtype == torch.int16 else tokens
    targets = ids[:, 1:].to(torch.int64)
    places = torch.arange(targets.shape[1], device=tokens.device)
    ignored = places >= fill[:, None] - 1
    if mask is not None:
        ignored |= targets == mask
    return ids[:, :-1].contiguous(), targets.masked_fill_(ignored, IGNORE)


def documents_of(cu_seqlens: Tensor, rows: int, seq_len: int) -> Tensor:
    """(rows, seq_len) int32: which document of the batch a place belongs to, from where they begin."""
    places = torch.arange(rows * seq_len, dtype=torch.int32, device=cu_seqlens.device)
    return (torch.bucketize(places, cu_seqlens, out_int32=True, right=True) - 1).view(rows, seq_len)
