"""The plain twin of the loader: all rows of one epoch, one after the other, with no cursor and no threads."""

from collections.abc import Iterator, Sequence

from tests.reference.order import permutation
from tests.reference.pack import best_fit, concat

DOCUMENTS, ROWS = 0, 1


def epoch_rows(
    documents: Sequence[Sequence[int]], *, fingerprint: bytes, bos: int, epoch: int, seed: int, seq_len: int,
    window: int, pack: str, shuffle: str, max_docs: int,
) -> Iterator[list[int]]:  # fmt: skip
    """Each row's tokens, without padding."""
    shuffled = shuffle == "global"
    n = len(documents)
    order = permutation(fingerprint, seed, 0, epoch, DOCUMENTS, 0, n) if shuffled else list(range(n))
    for number, first in enumerate(range(0, n, window)):
        chosen = [documents[place] for place in order[first : first + window]]
        lengths = list(map(len, chosen))
        rows = best_fit(lengths, seq_len + 1, max_docs) if pack == "bestfit" else concat(lengths, seq_len + 1)
        if shuffled:
            rows = [rows[i] for i in permutation(fingerprint, seed, 0, epoch, ROWS, number, len(rows))]
        else:
            rows.sort(key=lambda row: row[0])
        for row in rows:
            tokens: list[int] = []
            for document, start, end in row:
                tokens += ([bos] if start and pack == "bestfit" else []) + list(chosen[document][start:end])
            yield tokens
