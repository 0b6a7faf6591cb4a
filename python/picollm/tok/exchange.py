"""Tokenizers from and for other programs: tiktoken's ranks, and a comparison of bytes per token."""

import base64
import binascii
import gzip
import importlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from picollm import _rustbpe
from picollm.errors import PicoError, SourceError
from picollm.runtime import durable
from picollm.tok.tokenizer import MOST_FILE_BYTES, Tokenizer
from picollm.tok.train import Pattern


def tiktoken_ranks(tokenizer: Tokenizer) -> bytes:
    """The ordinary tokens as tiktoken keeps them: a line of base64 and rank for each. The specials are not among
    them; their ids follow in order."""
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in tokenizer.ranks())
    return "".join(lines).encode()


def read_tiktoken(path: Path, pattern: Pattern) -> Tokenizer:
    """A file of tiktoken's ranks (`.gz` too), with our specials after them. The file does not say how text is split,
    so `pattern` must. Its bytes may have other ids than their value: then it encodes, but cannot be saved.

    Raises PicoError (unreadable) or SourceError (no such file of ranks).
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise durable.failure(path, "read", error) from error
    try:
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        if len(data) > MOST_FILE_BYTES:
            raise ValueError(f"more than {MOST_FILE_BYTES >> 20} MiB")
        pairs = [line.split() for line in data.splitlines() if line]
        ranks = [(base64.b64decode(token, validate=True), int(rank)) for token, rank in pairs]
        return Tokenizer(_rustbpe.Tokenizer.from_ranks(ranks, pattern))
    except (ValueError, binascii.Error, OSError, EOFError, OverflowError, PicoError) as error:
        said = error.message if isinstance(error, PicoError) else error
        raise SourceError(
            f"{path}: no ranks of tiktoken: {said}", hint="a line of base64 and rank per token"
        ) from error


@dataclass(frozen=True)
class Compression:
    """One kind of text: its bytes, and the tokens that each counter makes of them."""

    kind: str
    bytes: int
    tokens: Mapping[str, int]

    def per_token(self, name: str) -> float:
        """Bytes of text for each token of that tokenizer."""
        return self.bytes / max(1, self.tokens[name])


Counter = Callable[[Sequence[bytes]], int]


def counter(tokenizer: Tokenizer) -> Counter:
    """How many tokens a tokenizer makes of texts."""
    return lambda texts: int(tokenizer.encode_batch(texts)[1][-1])


def o200k() -> Counter | None:
    """The same by o200k, whose split pattern we do not have, where the package bpe-openai brings it, without a network.
    Bytes that are not UTF-8 are U+FFFD to it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # how it reads its files is its own matter
            encoding = importlib.import_module("bpe_openai").get_encoding("o200k_base")
    except ImportError:
        return None
    return lambda texts: sum(len(encoding.encode_ordinary(text.decode(errors="replace"))) for text in texts)


def compare(kinds: Mapping[str, Sequence[bytes]], counters: Mapping[str, Counter]) -> list[Compression]:
    """Count every kind of text by every counter."""
    return [
        Compression(kind, sum(map(len, texts)), {name: count(texts) for name, count in counters.items()})
        for kind, texts in kinds.items()
    ]
