"""Tokenizers from and for other programs: tiktoken's ranks, and a comparison of bytes per token."""

import base64
import binascii
import gzip
from collections.abc import Mapping, Sequence
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
    """One kind of text: its bytes, and the tokens that each tokenizer makes of them."""

    kind: str
    bytes: int
    tokens: Mapping[str, int]

    def per_token(self, name: str) -> float:
        """Bytes of text for each token of that tokenizer."""
        return self.bytes / max(1, self.tokens[name])


def compare(kinds: Mapping[str, Sequence[bytes]], tokenizers: Mapping[str, Tokenizer]) -> list[Compression]:
    """Encode every kind of text with every tokenizer."""
    return [
        Compression(
            kind,
            sum(map(len, texts)),
            {name: int(tokenizer.encode_batch(texts)[1][-1]) for name, tokenizer in tokenizers.items()},
        )
        for kind, texts in kinds.items()
    ]
