"""Byte-pair encoding as the textbook has it: slow, and easy to believe."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

Pair = tuple[int, int]


def encode_piece(merges: Sequence[Pair], piece: bytes) -> list[int]:
    """Of all pairs that have a merge, join the first one of lowest rank, until none has. Merge i makes id 256 + i."""
    rank_of = {pair: 256 + rank for rank, pair in enumerate(merges)}
    ids = list(piece)
    while known := [(rank_of[pair], at) for at, pair in enumerate(pairwise(ids)) if pair in rank_of]:
        rank, at = min(known)
        ids[at : at + 2] = [rank]
    return ids


def train(pieces: Mapping[bytes, int], merges: int) -> list[Pair]:
    """Recount all pairs before each merge; the most frequent wins, ties go to the smaller pair. May end early."""
    words = [(list(piece), count) for piece, count in pieces.items()]
    learned: list[Pair] = []
    while len(learned) < merges:
        weights: Counter[Pair] = Counter()
        for word, count in words:
            for pair in pairwise(word):
                weights[pair] += count
        if not weights:
            break
        best = min(weights, key=lambda pair: (-weights[pair], pair))
        for word, _ in words:
            at = 0
            while at + 1 < len(word):
                if (word[at], word[at + 1]) == best:
                    word[at : at + 2] = [256 + len(learned)]
                at += 1
        learned.append(best)
    return learned
