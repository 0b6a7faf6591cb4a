"""The border: what crosses from Rust. Types and promises; `rustbpe/py/src` is the code."""

import os

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
    fingerprint: str

    def __new__(
        cls,
        directory: str | os.PathLike[str],
        *,
        split: str,
        fingerprint: str | None,
        tokenizer: str | None,
        io: str,
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
        epochs: int | None,
        threads: int,
    ) -> Loader: ...
    def start(self, slots: list[tuple[int, int]], owner: object) -> None:
        """Start the threads. `slots`: addresses of (inputs int32, targets int64), B·T elements each, that `owner`
        keeps alive and nobody touches but while the slot is lent."""

    def next(self) -> int | None:
        """The slot of the next batch, lent until `release`; None past the last epoch."""

    def release(self) -> None:
        """Give back all lent slots."""

    def state(self) -> str:
        """JSON of what was handed out, at most 400 bytes."""

    def load(self, state: str) -> None:
        """Stop, and stand where `state` was taken. Raises LoaderStateError."""

    def close(self) -> None:
        """Stop and join the threads, then let `owner` go."""
