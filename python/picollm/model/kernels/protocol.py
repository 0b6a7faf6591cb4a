"""What an attention kernel is: a value that the model calls, chosen once by whoever builds it."""

from typing import Protocol

import torch
from torch import Tensor

SHORTEST = 8  # tokens of a document on average in a row, at least: what kernels are told of has a fixed size


class Documents:
    """Which document each token belongs to: ids (B, T), any integers; equal neighbours are one document.

    Made for one forward pass; masks of equal windows are shared by its layers.
    """

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids
        self._starts: Tensor | None = None
        self._masks: dict[tuple[int | None, torch.dtype], Tensor] = {}

    def starts(self) -> Tensor:
        """(B, T) bool: True where a token is the first of its document or row."""
        first = torch.ones_like(self.ids[:, :1], dtype=torch.bool)
        return torch.cat((first, self.ids[:, 1:] != self.ids[:, :-1]), 1)

    def cu_seqlens(self) -> Tensor:
        """(N + 1) int32: where documents start among the B·T tokens, then B·T as often as it takes to fill up.

        N depends on (B, T) alone: kernels compiled for it serve every batch. Raises where there are more documents.
        """
        if self._starts is None:
            B, T = self.ids.shape
            most = B * (T // SHORTEST + 1)
            places = torch.arange(B * T, dtype=torch.int32, device=self.ids.device)
            first = self.starts().flatten()
            torch._assert_async(first.sum() <= most, f"more than {most} documents in {B} rows of {T} tokens")
            found = torch.where(first, places, B * T).sort().values[:most]
            self._starts = torch.nn.functional.pad(found, (0, most + 1 - found.shape[0]), value=B * T)
        return self._starts

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """(B, 1, T, T) to be added to scores: 0 for keys of the same document, not ahead, at most W back; else −∞."""
        held = self._masks.get((window, dtype))
        if held is None:
            number = self.starts().cumsum(1)
            same = number[:, :, None] == number[:, None, :]
            places = torch.arange(self.ids.shape[1], device=self.ids.device)
            held = self._masks[window, dtype] = additive(same & visible(places, places, window), dtype)[:, None]
        return held


class Attend(Protocol):
    """Causal attention: query i sees keys j with 0 ≤ i − j ≤ window (None: no bound) of its own document."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, window: int | None, documents: Documents | None = None
    ) -> Tensor:
        """q (B, T, H, D); k, v (B, T, K, D), K dividing H → (B, T, H, D). Softmax of q·k/√D."""
        ...


def visible(queries: Tensor, keys: Tensor, window: int | None) -> Tensor:
    """Which key places (…, S) a query place (…, T) sees: bool (…, T, S)."""
    back = queries[..., :, None] - keys[..., None, :]
    seen = back >= 0
    return seen if window is None else seen & (back <= window)


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where `seen`, −∞ elsewhere."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, float("-inf"))
