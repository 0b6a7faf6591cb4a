"""What a loader hands to a step."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """B rows for one rank. `targets` is −100 where nothing is to be learned: padding, masked slots, users' words.

    inputs (B, T) int32 · targets (B, T) int64 · documents (B, T) int32 or None: equal numbers may attend to each other.
    """

    inputs: Tensor
    targets: Tensor
    documents: Tensor | None = None
