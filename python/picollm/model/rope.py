"""Rotary positions: cosines and sines, computed once per device and grown on demand. Never saved."""

import torch
from torch import Tensor


class Rope:
    """Tables for heads of `head_dim`, half-split: channel i turns with channel i + D/2.

    Both tables carry the factor `scale`, so that rotating a normed query or key also gives it its length.
    """

    def __init__(self, head_dim: int, base: float, scale: float, length: int) -> None:
        self.head_dim, self.base, self.scale, self.length = head_dim, base, scale, length
        self._tables: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def tables(self, end: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(cos, sin) of at least `end` positions, each (≥ end, D): cos twice; −sin, then sin. Angles are fp32."""
        held = self._tables.get((device, dtype))
        if held is None or held[0].shape[0] < end:
            while self.length < end:
                self.length *= 2
            held = self._tables[device, dtype] = self._make(device, dtype)
        return held

    def _make(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        half = torch.arange(0, self.head_dim, 2, dtype=exact, device=device)
        frequencies = self.base ** (-half / self.head_dim)
        angles = torch.outer(torch.arange(self.length, dtype=exact, device=device), frequencies)
        cos, sin = angles.cos() * self.scale, angles.sin() * self.scale
        return torch.cat((cos, cos), -1).to(dtype), torch.cat((-sin, sin), -1).to(dtype)
