"""Keys and values of the past, so that a new token costs one token.

Every layer keeps the whole context; a windowed layer masks what it no longer sees.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from picollm.errors import UsageError
from picollm.model.config import ModelConfig
from picollm.model.kernels.protocol import additive, visible


class Cache:
    """Room for `capacity` tokens in each of `rows` rows. `lengths[b]` tokens of row b are filled.

    Prompts of different lengths: pad them on the right, run them together, then `truncate` to the true lengths;
    what lies beyond a length is never seen and is written over.
    """

    def __init__(
        self,
        config: ModelConfig,
        rows: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (rows, capacity, config.kv_heads, config.head_dim)
        self.config, self.rows, self.capacity = config, rows, capacity
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.depth)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.depth)]
        self.ids = torch.zeros((rows, capacity), dtype=torch.int64, device=device)  # smear needs the one before
        self.lengths = [0] * rows

    def truncate(self, lengths: Sequence[int]) -> None:
        """Forget all but the first `lengths[b]` tokens of each row b."""
        assert len(lengths) == self.rows
        assert all(0 <= new <= old for new, old in zip(lengths, self.lengths, strict=True))
        self.lengths = list(lengths)

    def copied(self, rows: Sequence[int], capacity: int) -> "Cache":
        """A cache of `capacity` tokens whose row i holds what row `rows[i]` of this one holds."""
        copy = Cache(self.config, len(rows), capacity, self.keys[0].dtype, self.ids.device)
        index = torch.tensor(rows, device=self.ids.device)
        filled = max(self.lengths[row] for row in rows)
        for mine, theirs in zip(
            (*copy.keys, *copy.values, copy.ids), (*self.keys, *self.values, self.ids), strict=True
        ):
            mine[:, :filled] = theirs[index, :filled]
        copy.lengths = [self.lengths[row] for row in rows]
        return copy

    def extend(self, ids: Tensor) -> "Span":
        """Make room for ids (rows, T) after each row's tokens. Raises UsageError past the capacity."""
        rows, T = ids.shape
        assert rows == self.rows, f"{rows} rows of ids for a cache of {self.rows}"
        longest = max(self.lengths) + T
        if longest > self.capacity:
            raise UsageError(f"the context is full: {longest:,} tokens, room for {self.capacity:,}")
        span = Span(self, T)
        self.ids[span.rows, span.places] = ids.to(self.ids.dtype)
        self.lengths = [length + T for length in self.lengths]
        return span


class Span:
    """The T new tokens of each row, during one forward pass. `places` (B, T): their positions."""

    def __init__(self, cache: Cache, T: int) -> None:
        device = cache.ids.device
        starts = torch.tensor(cache.lengths, device=device)
        self.cache = cache
        self.places = starts[:, None] + torch.arange(T, device=device)
        self.rows = torch.arange(cache.rows, device=device)[:, None]
        self.end = max(cache.lengths) + T
        self.whole = not any(cache.lengths)  # nothing came before: the training path serves
        self._same = len(set(cache.lengths)) == 1
        self._masks: dict[int | None, Tensor | None] = {}

    def store(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep k, v (B, T, K, D); return all keys and values of the layer so far, (B, end, K, D)."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[self.rows, self.places] = k.to(keys.dtype)
        values[self.rows, self.places] = v.to(values.dtype)
        return keys[:, : self.end], values[:, : self.end]

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """(B, 1, T, end) to be added to scores, shared by layers of one window; None if every key is seen."""
        if window not in self._masks:
            everything = self._same and self.places.shape[1] == 1 and (window is None or window >= self.end - 1)
            seen = visible(self.places, torch.arange(self.end, device=self.places.device), window)
            self._masks[window] = None if everything else additive(seen, dtype)[:, None]
        return self._masks[window]

    def previous_ids(self) -> Tensor:
        """(B, T) the id before each new token; 0 at the start of a row, where nothing is before."""
        return self.cache.ids[self.rows, (self.places - 1).clamp_min(0)]
