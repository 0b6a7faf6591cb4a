"""The border: what crosses from Rust. Types and promises; `rustbpe/py/src` is the code.

Long jobs release the interpreter and obey Ctrl-C.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

# Called about five times a second with the counters done, total, bytes, documents, tokens, encode_ns and write_ns; may
# raise to stop.
Progress = Callable[[Mapping[str, int]], object] | None

class Supply(Protocol):
    """Brings the files of segments while a job runs; called from the job's threads. Neither method may raise."""

    def ready(self, segment: int, /) -> bool:
        """Whether the segment's files are in place; waits for them a tenth of a second at most."""

    def done(self, segment: int, amount: int, /) -> object:
        """The segment needs its files no more; it gave so many training tokens (`tok train`: characters)."""

SPECIALS: Sequence[str]

class Tokenizer:
    @staticmethod
    def from_json(data: bytes) -> Tokenizer:
        """Read a tokenizer.json. Raises ShardFormatError where it breaks a rule of the format."""
    @staticmethod
    def from_ranks(ranks: Sequence[tuple[bytes, int]], pattern: str) -> Tokenizer:
        """Other people's ranks, for comparisons: ids 0–255 may not be the bytes in order."""
    def to_json(self) -> bytes: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def pattern(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def bos(self) -> int: ...
    @property
    def merges(self) -> list[tuple[int, int]]: ...
    def encode(self, text: str | bytes) -> list[int]: ...
    def encode_batch(
        self, texts: Sequence[str | bytes], workers: int | None = None, narrow: bool = False
    ) -> tuple[bytes, bytes]:
        """Flat ids as native u32 (`narrow`: u16) and len(texts) + 1 offsets as native u64."""
    def decode_bytes(self, ids: list[int]) -> bytes: ...
    def token_bytes(self, id: int) -> bytes: ...
    def byte_lengths(self) -> bytes:
        """Native i32 for every id; 0 for specials."""
    def stream(self) -> TextStream: ...

class TextStream:
    def push(self, id: int) -> str:
        """The characters that this id completes."""
    def finish(self) -> str:
        """What is left; a character cut short becomes U+FFFD."""

def train_source(
    root: str,
    plan: bytes,
    val_ppm: int,
    options: bytes,
    supply: Supply | None = None,
    progress: Progress = None,
) -> tuple[Tokenizer, list[tuple[str, int]], list[str]]:
    """`plan`: JSON of files, segments and options; `options`: JSON of vocab_size, pattern, ties, max_chars, workers."""

def train_texts(
    texts: Sequence[str], options: bytes, progress: Progress = None
) -> tuple[Tokenizer, list[tuple[str, int]], list[str]]: ...
def split(pattern: str, text: str | bytes) -> list[bytes]:
    """The pieces of a text under a named pattern."""

def safe_cut(text: str | bytes, start: int) -> int | None:
    """The first byte position from `start` on that cuts the text into two with the ids of the whole, or None."""

def pattern_regex(pattern: str) -> str: ...

class Loader:
    """Batches of rows for one rank, written by Rust threads into memory that Python owns.

    Use `picollm.loader.stream.Stream`. Every method raises ForkedProcessError in a forked child.
    """

    running: bool
    micro_steps: int
    documents: int
    tokens: int
    vocab_size: int
    bos: int
    token_bytes: int  # of a stored token, the widest of the data sets
    bounds: int  # places for document boundaries in a slot
    shares: list[float]
    fingerprints: list[str]

    def __new__(
        cls,
        directories: Sequence[str | os.PathLike[str]],
        *,
        weights: list[int],
        split: str,
        fingerprints: list[str | None],
        tokenizer: str | None,
        io: str,
        verify: str,
        limit: int | None,
        seed: int,
        seq_len: int,
        window: int,
        pack: str,
        max_docs: int | None,
        shuffle: str,
        batch_size: int,
        rows_per_step: int,
        rank: int,
        world_size: int,
        out: str,
        bounds: bool,
        mask_boundaries: bool,
        epochs: int | None,
        threads: int,
    ) -> Loader: ...
    def start(self, slots: Sequence[Sequence[int]], owner: object) -> None:
        """Start the threads. `slots`: three addresses each, of inputs int32 and targets int64 (B, T), or of tokens
        (B, T + 1) as stored and fill int32 (B); then of `bounds` int32 places, or 0. `owner` keeps that memory alive
        and nobody touches it but while the slot is lent."""

    def next(self, patience: tuple[float, float] = (10.0, 300.0)) -> int | None:
        """The slot of the next batch, lent until `release`; None past the last epoch. `patience`: seconds without one
        after which a RuntimeWarning names what is read, and after which PicoError does."""

    def release(self) -> None:
        """Give back all lent slots."""

    def state(self) -> str:
        """JSON of what was handed out, at most 400 bytes for a single data set."""

    def load(self, state: str, reweigh: bool) -> None:
        """Stop, and stand where `state` was taken. Raises LoaderStateError."""

    def close(self) -> None:
        """Stop and join the threads, then let `owner` go."""

# Sources and shards: JSON in, JSON out. `progress` is called about five times a second with the job's counters
# (done, total, bytes, documents, tokens); a signal handler or a `progress` that raises stops the job.

def blake3_hex(data: bytes) -> str: ...
def sha256_files(paths: list[str], workers: int, progress: Progress = None) -> list[str]:
    """sha256 of each file in hex."""

def sniff_source(root: str | os.PathLike[str], files: bytes, options: bytes) -> bytes:
    """`{"text_column", "columns": [{"name", "kind"}], "warnings"}` of the first file that has columns."""

def publish(out: str | os.PathLike[str], name: str, data: bytes) -> None:
    """Write a small file into a shard set, durably and read-only."""

def clean_partial(out: str | os.PathLike[str]) -> int:
    """Remove files in the making of dead writers; how many."""

def tokenizer_facts(tokenizer_json: bytes) -> tuple[str, int, int]:
    """(sha256 in hex, ids in all, id of BOS)."""

def shard_segments(
    plan: bytes,
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    tokenizer_json: bytes,
    done: list[tuple[int, int]],
    tokens: int | None,
    workers: int,
    supply: Supply | None = None,
    progress: Progress = None,
) -> list[bytes]:
    """Run and commit the segments that are not `done` (index, training tokens). Returns the commit records made."""

def committed_segments(plan: bytes, out: str | os.PathLike[str]) -> list[bytes | None]:
    """The commit record of each segment of the plan; None where it is not finished in `out`. Reads no tokens."""

def verify_shard(
    path: str | os.PathLike[str], progress: Progress = None
) -> tuple[int, int, int, str, str, str, int, int]:
    """Tokens, documents, bytes of text, blake3, blake3 of the offsets, sha256 of the tokenizer, segment, part."""

def pack_counts(packing: str, lengths: list[int], row_tokens: int) -> tuple[int, int, int, int]:
    """Rows, BOS put in, documents cut, and those of them that would have fitted a row whole: of one window."""
