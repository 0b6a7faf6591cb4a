"""What an evaluation found: sums first, ratios derived, so that results add up over ranks and parts. No torch."""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IGNORED = -100  # a target that is padding or a masked slot
HASH_WORDS = 4  # a row hash is four 64-bit words, and a set hash their sum: no order, no rank, no batch in it


@dataclass(frozen=True)
class BitsPerByte:
    """Negative log-likelihood of one fixed set of tokens. Special tokens spell no text and are in none of the sums.

    nats: summed −ln p.  bytes: UTF-8 bytes these tokens spell.  tokens: how many there are.
    set_hash: 16 hex digits that name the rows, whatever their order, batch or rank; "" where no rows were cut.
    """

    nats: float
    bytes: int
    tokens: int
    set_hash: str = ""

    @property
    def bpb(self) -> float:
        """Bits per byte: comparable between tokenizers, which nats per token are not. NaN for an empty set."""
        return self.nats / (math.log(2) * self.bytes) if self.bytes else math.nan

    @property
    def loss(self) -> float:
        """Mean nats per token. NaN for an empty set."""
        return self.nats / self.tokens if self.tokens else math.nan

    def to_json(self) -> dict[str, float | int | str]:
        """The fields of an `eval` line of metrics.jsonl, and of a file under evals/."""
        return {
            "bpb": self.bpb,
            "nats": self.nats,
            "bytes": self.bytes,
            "n": self.tokens,
            "loss": self.loss,
            "set_hash": self.set_hash,
        }


def hash_rows(inputs: NDArray[np.int32], targets: NDArray[np.int32]) -> NDArray[np.uint64]:
    """Wrapping sum (4,) of the rows' hashes. inputs, targets (B, T); a row without a target is no row."""
    words = np.zeros(HASH_WORDS, dtype=np.uint64)
    for row, wanted in zip(inputs, targets, strict=True):
        if (wanted != IGNORED).any():
            digest = hashlib.blake2b(row.tobytes() + wanted.tobytes(), digest_size=8 * HASH_WORDS)
            words += np.frombuffer(digest.digest(), dtype="<u8")
    return words


def set_name(words: NDArray[np.uint64]) -> str:
    """16 hex digits for a sum of row hashes."""
    return hashlib.blake2b(words.astype("<u8").tobytes(), digest_size=8).hexdigest()
