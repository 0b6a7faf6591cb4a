"""What a plan needs to know of a shard set, and the findings a plan carries."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self

from picollm.errors import CheckError, MissingError, OutOfMemoryError, PicoError, UsageError


class Shards(Protocol):
    """The attributes of an open shard set that a plan reads."""

    @property
    def path(self) -> Path: ...
    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def tokenizer_sha256(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def train_tokens(self) -> int: ...
    @property
    def val_tokens(self) -> int: ...
    @property
    def train_documents(self) -> int: ...
    @property
    def val_documents(self) -> int: ...
    @property
    def train_bytes(self) -> int: ...
    @property
    def val_bytes(self) -> int: ...


@dataclass(frozen=True)
class DataFacts:
    """A shard set in numbers. `train_bytes`, `val_bytes`: UTF-8 bytes of the text.

    val_path, val_split, val_fingerprint: the set and the split that validation rows come from, where it is another.
    """

    name: str
    path: str
    fingerprint: str
    tokenizer_sha256: str
    vocab_size: int
    train_tokens: int
    val_tokens: int
    train_documents: int = 0
    val_documents: int = 0
    train_bytes: int = 0
    val_bytes: int = 0
    val_path: str = ""
    val_split: Literal["train", "val"] = "val"
    val_fingerprint: str = ""

    @classmethod
    def of(cls, shards: Shards) -> Self:
        """The facts of an open shard set."""
        return cls(
            name=shards.name,
            path=str(shards.path),
            fingerprint=shards.fingerprint,
            tokenizer_sha256=shards.tokenizer_sha256,
            vocab_size=shards.vocab_size,
            train_tokens=shards.train_tokens,
            val_tokens=shards.val_tokens,
            train_documents=shards.train_documents,
            val_documents=shards.val_documents,
            train_bytes=shards.train_bytes,
            val_bytes=shards.val_bytes,
        )


@dataclass(frozen=True)
class Warning:
    """Something that looks wrong and does not stop the run. `remedy` is one change at about equal cost."""

    code: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.code} {self.text}" + (f": {self.remedy}" if self.remedy else "")


@dataclass(frozen=True)
class Problem:
    """Something that stops `train` and that `plan` only lists. `exit_code` 2, 3, 4 or 5."""

    exit_code: int
    message: str
    hint: str

    def error(self) -> PicoError:
        """The error that `train` raises for it."""
        kind = {2: UsageError, 3: CheckError, 4: MissingError, 5: OutOfMemoryError}[self.exit_code]
        return kind(self.message, hint=self.hint)
