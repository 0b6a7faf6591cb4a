"""The plain twin of the loader: all rows of one epoch, one after the other, with no cursor and no threads."""

from collections.abc import Iterator, Sequence
from itertools import count

from blake3 import blake3
from tests.reference.order import permutation
from tests.reference.pack import best_fit, concat

DOCUMENTS, ROWS, BLOCKS = 0, 1, 2
BLOCK_ROWS = 4096


def document_order(n: int, fingerprint: bytes, seed: int, source: int, epoch: int, shuffle: str) -> list[int]:
    if shuffle == "none":
        return list(range(n))
    size = int(shuffle.removeprefix("block:")) if shuffle != "global" else 1
    blocks = permutation(fingerprint, seed, source, epoch, DOCUMENTS, 0, n // size)
    return [size * block + i for block in blocks for i in range(size)] + list(range(n // size * size, n))


def epoch_rows(
    documents: Sequence[Sequence[int]], *, fingerprint: bytes, bos: int, epoch: int, seed: int, seq_len: int,
    window: int, pack: str, shuffle: str, max_docs: int, source: int = 0,
) -> Iterator[list[list[int]]]:  # fmt: skip
    """Each row's pieces of documents, in order, without padding."""
    order = document_order(len(documents), fingerprint, seed, source, epoch, shuffle)
    for number, first in enumerate(range(0, len(documents), window)):
        chosen = [documents[place] for place in order[first : first + window]]
        lengths = list(map(len, chosen))
        rows = best_fit(lengths, seq_len + 1, max_docs) if pack == "bestfit" else concat(lengths, seq_len + 1)
        if shuffle == "none":
            rows.sort(key=lambda row: row[0])
        else:
            rows = [rows[i] for i in permutation(fingerprint, seed, source, epoch, ROWS, number, len(rows))]
        for row in rows:
            yield [
                ([bos] if start and pack == "bestfit" else []) + list(chosen[document][start:end])
                for document, start, end in row
            ]


def mixed_rows(
    sources: Sequence[Sequence[Sequence[int]]], weights: Sequence[int], fingerprints: Sequence[bytes], **options: object
) -> Iterator[list[list[int]]]:
    """The rows of a mixture, for ever."""

    def endless(source: int) -> Iterator[list[list[int]]]:
        for epoch in count():
            yield from epoch_rows(
                sources[source], fingerprint=fingerprints[source], epoch=epoch, source=source, **options
            )

    streams = [endless(source) for source in range(len(sources))]
    for block in count():
        for source in block_sources(weights, fingerprints, options["seed"], block):
            yield next(streams[source])


def block_sources(weights: Sequence[int], fingerprints: Sequence[bytes], seed: int, block: int) -> list[int]:
    dealt = [source for source, share in enumerate(shares(weights)) for _ in range(share)]
    key = blake3(b"".join(fingerprints)).digest()
    return [dealt[i] for i in permutation(key, seed, 0, 0, BLOCKS, block, BLOCK_ROWS)]


def shares(weights: Sequence[int]) -> list[int]:
    """Rows of each source in a block: rounded down, the largest remainders up."""
    total = sum(weights)
    rows = [weight * BLOCK_ROWS // total for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda source: -(weights[source] * BLOCK_ROWS % total))
    for source in by_remainder[: BLOCK_ROWS - sum(rows)]:
        rows[source] += 1
    return rows
