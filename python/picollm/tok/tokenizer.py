"""`Tokenizer`: text to ids and back. The file `tokenizer.json` alone defines it; the work is done in Rust."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from picollm import _rustbpe
from picollm.errors import MissingError, PicoError, ShardFormatError
from picollm.runtime import durable
from picollm.tok.special import SPECIALS, transformers_config

FILE = "tokenizer.json"
CONFIG = "tokenizer_config.json"
MANIFEST = "manifest.json"
FORMAT = "picollm-tokenizer/1"
MOST_FILE_BYTES = 16 * 2**20  # a larger tokenizer.json is refused unread


class Tokenizer:
    """A trained tokenizer; every one encodes every byte. Immutable, safe to share between threads.

    `made` is the manifest of a training: how, and from what. It changes nothing about the ids.
    """

    def __init__(self, core: _rustbpe.Tokenizer, made: Mapping[str, Any] | None = None) -> None:
        self.core = core
        self.made = dict(made or {})
        self.specials: dict[str, int] = {name: core.bos + i for i, name in enumerate(SPECIALS)}

    @classmethod
    def load(cls, path: Path | str) -> "Tokenizer":
        """Read a tokenizer's folder or its `tokenizer.json`; nothing else of the folder is looked at.

        Raises MissingError, PicoError (unreadable) or ShardFormatError (not a tokenizer of ours).
        """
        file = Path(path)
        if file.is_dir():
            file = file / FILE
        try:
            with file.open("rb") as opened:
                data = opened.read(MOST_FILE_BYTES + 1)
        except FileNotFoundError as error:
            raise MissingError(f"{file}: no tokenizer here", hint="picollm tok train --vocab-size 65536") from error
        except OSError as error:
            raise durable.failure(file, "read", error) from error
        return cls.load_bytes(data, file)

    @classmethod
    def load_bytes(cls, data: bytes, file: Path) -> "Tokenizer":
        """The tokenizer that the bytes of a `tokenizer.json` define; `file` is named where they do not."""
        try:
            return cls(_rustbpe.Tokenizer.from_json(data))
        except PicoError as error:
            hint = "only a tokenizer.json made by picollm can be used: picollm tok train --vocab-size 65536"
            raise ShardFormatError(f"{file}: {error.message.removeprefix(FILE + ': ')}", hint=hint) from error

    def save(self, directory: Path) -> None:
        """Write the three files durably; `tokenizer.json` comes last, so a folder that has it is whole.

        Raises BusyError, DiskFullError or PicoError.
        """
        with durable.lock(directory):
            durable.write_json(directory / MANIFEST, self.manifest())
            durable.write_json(directory / CONFIG, transformers_config(self.bos))
            durable.write(directory / FILE, self.core.to_json())

    def manifest(self) -> dict[str, Any]:
        """What `manifest.json` says; of a tokenizer that was loaded, only what its file shows."""
        known = {"format": FORMAT, "fingerprint": self.fingerprint, "pattern": self.core.pattern}
        return {**self.made, **known, "vocab_size": self.vocab_size}

    @property
    def fingerprint(self) -> str:
        """sha256 of `tokenizer.json`, 64 hex digits."""
        return self.core.fingerprint

    @property
    def vocab_size(self) -> int:
        """All ids: bytes, merges and specials."""
        return self.core.vocab_size

    @property
    def bos(self) -> int:
        """Id of `<|bos|>`, with which every document begins."""
        return self.core.bos

    def encode(self, text: str | bytes) -> list[int]:
        """Ids of ordinary text: a special token that the text spells stays text."""
        return self.core.encode(text)

    def encode_batch(
        self, texts: Sequence[str | bytes], *, workers: int | None = None
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Ids of all texts, flat, and offsets (len(texts) + 1,): text i is `ids[offsets[i]:offsets[i + 1]]`."""
        ids, offsets = self.core.encode_batch(texts, workers)
        return np.frombuffer(ids, np.uint32), np.frombuffer(offsets, np.int64)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of `ids`; a special token gives its name. Raises UsageError on an id outside the vocabulary."""
        return self.core.decode_bytes(list(ids))

    def decode(self, ids: Iterable[int]) -> str:
        """`decode_bytes` as text, with U+FFFD for what is not UTF-8."""
        return self.decode_bytes(ids).decode(errors="replace")

    def stream(self) -> _rustbpe.TextStream:
        """A decoder for ids that come one by one: `push(id)` gives the characters completed, `finish()` the rest."""
        return self.core.stream()

    def token_bytes(self, token: int) -> bytes:
        """Bytes of one token. Raises UsageError on an id outside the vocabulary."""
        return self.core.token_bytes(token)

    def ranks(self) -> list[tuple[bytes, int]]:
        """Bytes and id of every ordinary token, as tiktoken keeps them."""
        return [(self.core.token_bytes(id), id) for id in range(self.bos)]

    def byte_lengths(self) -> NDArray[np.int32]:
        """(V,) bytes of text that each id stands for; 0 for the specials."""
        return np.frombuffer(self.core.byte_lengths(), np.int32)
