"""nanochat's pretraining loader as a plain twin, in our words: rows of whole documents where they fit, else cropped.

A buffer holds a thousand documents. A row takes the longest one that still fits, again and again; where none fits, the
shortest is cut to fill the row and its rest is thrown away. nanochat tokenizes on the way; here documents are ids.
"""

from collections.abc import Iterator, Sequence

BUFFER = 1000


def crop_rows(documents: Iterator[Sequence[int]], row_tokens: int) -> Iterator[tuple[list[int], int]]:
    """Rows of exactly `row_tokens` ids, each with the number of ids thrown away for it. Ends with the documents."""
    buffer: list[Sequence[int]] = []
    while True:
        row: list[int] = []
        thrown = 0
        while len(row) < row_tokens:
            while len(buffer) < BUFFER:
                document = next(documents, None)
                if document is None:
                    return
                buffer.append(document)
            room = row_tokens - len(row)
            best, best_length = -1, 0
            for index, document in enumerate(buffer):
                if best_length < len(document) <= room:
                    best, best_length = index, len(document)
            if best >= 0:
                row.extend(buffer.pop(best))
            else:
                shortest = min(range(len(buffer)), key=lambda index: len(buffer[index]))
                document = buffer.pop(shortest)
                row.extend(document[:room])
                thrown += len(document) - room
        yield row, thrown
