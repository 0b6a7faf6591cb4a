"""What an evaluation found: sums first, ratios derived, so that results add up over ranks and parts. No torch."""

import math
from dataclasses import dataclass


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
