"""Keys and values of the past, so that a new token costs one token.

A layer without a window keeps the whole context. A windowed one keeps the W + 1 last tokens that the next token sees,
in a ring: position p lies in slot p mod (W + 1), and what has rolled out is written over.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from picollm.errors import UsageError
from picollm.model.config import ModelConfig
from picollm.model.kernels.protocol import additive, visible


class Cache:
    """Room for `most` rows of `capacity` tokens. `lengths[b]` tokens of row b have been read; there are
    `len(lengths)` rows, which come by `append` and go by `drop`, or are all there from the start (`rows`).

    Prompts of different lengths: pad them on the right and say how many tokens of each row count.
    """

    def __init__(
        self,
        config: ModelConfig,
        rows: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        *,
        most: int | None = None,
    ) -> None:
        most = rows if most is None else most
        self.config, self.most, self.capacity = config, most, capacity
        self.sizes = [slots(window, capacity) for window in config.windows]
        shapes = [
            (most, size + 1, config.kv_heads, config.head_dim) for size in self.sizes
        ]  # the last slot: thrown away
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]
        self.ids = torch.zeros((most, capacity + 1), dtype=torch.int64, device=device)  # smear needs the one before
        self.lengths = [0] * rows

    def copied(self, rows: Sequence[int], capacity: int) -> "Cache":
        """A cache of `capacity` tokens whose row i holds what row `rows[i]` of this one holds."""
        copy = Cache(self.config, len(rows), capacity, self.keys[0].dtype, self.ids.device)
        index = torch.tensor(rows, device=self.ids.device)
        longest = max(self.lengths[row] for row in rows)
        for mine, theirs in self._pairs(copy, longest):
            mine[:, : theirs.shape[1]] = theirs[index]
        copy.lengths = [self.lengths[row] for row in rows]
        return copy

    def append(self, other: "Cache", row: int) -> None:
        """One more row: what row `row` of `other` holds."""
        place = len(self.lengths)
        assert place < self.most
        for mine, theirs in other._pairs(self, other.lengths[row]):
            mine[place, : theirs.shape[1]] = theirs[row]
        self.lengths.append(other.lengths[row])

    def drop(self, row: int) -> None:
        """Forget a row. The last one takes its number."""
        last = len(self.lengths) - 1
        if row != last:
            for held in (*self.keys, *self.values, self.ids):
                held[row] = held[last]
        self.lengths[row] = self.lengths[last]
        del self.lengths[last]

    def _pairs(self, other: "Cache", longest: int) -> list[tuple[Tensor, Tensor]]:
        """Tensors of `other` and the parts of this cache's that belong there, for rows of at most `longest` tokens."""
        pairs = [(other.ids, self.ids[:, :longest])]
        for layer, (mine, theirs) in enumerate(zip(self.sizes, other.sizes, strict=True)):
            assert mine == theirs or longest <= min(mine, theirs), "a ring that has rolled keeps its size"
            filled = min(longest, mine)
            pairs.append((other.keys[layer], self.keys[layer][:, :filled]))
            pairs.append((other.values[layer], self.values[layer][:, :filled]))
        return pairs

    def extend(self, ids: Tensor, counts: Sequence[int] | None = None) -> "Span":
        """Make room for ids (rows, T) after each row's tokens; of row b the first `counts[b]` count, None: all.

        Raises UsageError past the capacity.
        """
        rows, T = ids.shape
        assert rows == len(self.lengths), f"{rows} rows of ids for a cache of {len(self.lengths)}"
        counts = [T] * rows if counts is None else list(counts)
        longest = max(length + count for length, count in zip(self.lengths, counts, strict=True))
        if longest > self.capacity:
            raise UsageError(f"the context is full: {longest:,} tokens, room for {self.capacity:,}")
        span = Span(self, T, counts)
        self.ids[span.rows, span.slots(self.capacity)] = ids.to(self.ids.dtype)
        self.lengths = [length + count for length, count in zip(self.lengths, counts, strict=True)]
        return span


def slots(window: int | None, capacity: int) -> int:
    """How many tokens a layer keeps."""
    return capacity if window is None else min(capacity, window + 1)


class Span:
    """The T new tokens of each row, during one forward pass. `places` (B, T): their positions."""

    def __init__(self, cache: Cache, T: int, counts: Sequence[int]) -> None:
        device = cache.ids.device
        starts = torch.tensor(cache.lengths, device=device)
        self.cache = cache
        self.T = T
        self.starts = starts
        self.ends = starts + torch.tensor(counts, device=device)
        self.places = starts[:, None] + torch.arange(T, device=device)
        self.rows = torch.arange(len(cache.lengths), device=device)[:, None]
        self.end = max(cache.lengths) + T
        self.whole = not any(cache.lengths)  # nothing came before: the training path serves
        self._same = len(set(cache.lengths)) == 1 and all(count == T for count in counts)
        self._masks: dict[int | None, Tensor | None] = {}
        self._slots: dict[int, Tensor] = {}

    def keep(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Keep those of k, v (B, T, K, D) that count and that a later token may see."""
        slot = self.slots(self.cache.sizes[layer])
        for held, new in ((self.cache.keys[layer], k), (self.cache.values[layer], v)):
            held[self.rows, slot] = new.to(held.dtype)

    def slots(self, size: int) -> Tensor:
        """(B, T) where a ring of `size` keeps each new token; the slot after the last for what it does not keep."""
        if size not in self._slots:
            last = (self.places < self.ends[:, None]) & (self.places >= self.ends[:, None] - size)
            self._slots[size] = torch.where(last, self.places % size, size)
        return self._slots[size]

    def join(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep k, v (B, T, K, D); return all keys and values that the layer's new tokens may see, (B, S, K, D)."""
        keys, values = (held[: len(self.rows)] for held in (self.cache.keys[layer], self.cache.values[layer]))
        size = self.cache.sizes[layer]
        if self._rolls(size) and self.T > 1:  # the ring would lose what the first of them still see
            before = [torch.cat((held[:, :size], new.to(held.dtype)), 1) for held, new in ((keys, k), (values, v))]
            self.keep(layer, k, v)
            return before[0], before[1]
        self.keep(layer, k, v)
        filled = min(self.end, size)
        return keys[:, :filled], values[:, :filled]

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """(B, 1, T, S) to be added to scores, shared by layers of one window; None if every key is seen."""
        if window not in self._masks:
            self._masks[window] = self._masked(window, dtype)
        return self._masks[window]

    def _masked(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        size = slots(window, self.cache.capacity)
        rolls = self._rolls(size)
        if self._same and self.T == 1 and (rolls or window is None or window >= self.end - 1):
            return None
        if not rolls:
            keys = torch.arange(min(self.end, size), device=self.places.device)
        elif self.T == 1:
            keys = self._ring(self.ends, size)
        else:
            keys = torch.cat((self._ring(self.starts, size), self.places), 1)
        return additive(visible(self.places, keys if keys.dim() == 2 else keys[None], window), dtype)[:, None]

    def _rolls(self, size: int) -> bool:
        """Whether a ring of `size` slots does not hold all there is by the end of this pass."""
        return self.end > size

    def _ring(self, lengths: Tensor, size: int) -> Tensor:
        """(B, size) the position that each slot holds after `lengths` (B,) tokens; past all positions where empty."""
        newest = lengths[:, None] - 1
        held = newest - torch.remainder(newest - torch.arange(size, device=lengths.device), size)
        return torch.where(held < 0, self.end + size, held)

    def previous_ids(self) -> Tensor:
        """(B, T) the id before each new token; 0 at the start of a row, where nothing is before."""
        return self.cache.ids[self.rows, (self.places - 1).clamp(0, self.cache.capacity - 1)]
