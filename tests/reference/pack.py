"""The plain twin of the packer: every row is looked at for every piece."""

from collections.abc import Sequence

Piece = tuple[int, int, int]  # document, first stored token, one past the last
Row = list[Piece]


def best_fit(lengths: Sequence[int], row_tokens: int, max_documents: int) -> list[Row]:
    pieces = []  # (tokens in the row, piece)
    for document, length in enumerate(lengths):
        start = 0
        while start < length:
            end = min(length, start + row_tokens - (start > 0))
            pieces.append((end - start + (start > 0), (document, start, end)))
            start = end
    rows: list[Row] = []
    rooms: list[tuple[int, int]] = []  # (room left, −when it came to this room): the smallest is the best fit
    for time, (tokens, piece) in enumerate(sorted(pieces, key=lambda piece: -piece[0])):
        fits = [i for i, (room, _) in enumerate(rooms) if room >= tokens and len(rows[i]) < max_documents]
        if fits:
            row = min(fits, key=rooms.__getitem__)
        else:
            row = len(rows)
            rows.append([])
            rooms.append((row_tokens, 0))
        rows[row].append(piece)
        rooms[row] = (rooms[row][0] - tokens, -time)
    return rows


def concat(lengths: Sequence[int], row_tokens: int) -> list[Row]:
    stream = [(document, token) for document, length in enumerate(lengths) for token in range(length)]
    rows = []
    for first in range(0, len(stream), row_tokens):
        row = stream[first : first + row_tokens]
        rows.append([(d, min(t for e, t in row if e == d), max(t for e, t in row if e == d) + 1)
                     for d in dict.fromkeys(d for d, _ in row)])  # fmt: skip
    return rows
