"""Unigram and add-one bigram by dictionaries, one token at a time: the twin of evals/baselines.py."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

Row = tuple[Sequence[int], Sequence[int]]


def unigram_nats(train: Sequence[Sequence[int]], rows: Sequence[Row], spelling: Sequence[bytes]) -> float:
    """Summed −ln p of all targets that spell something. train: one sequence of ids per shard file."""
    counts = Counter(token for file in train for token in file)
    total = sum(counts.values()) + len(spelling)
    return math.fsum(
        -math.log(Fraction(counts[target] + 1, total))
        for _, targets in rows
        for target in targets
        if target != -100 and spelling[target]
    )


def bigram_nats(train: Sequence[Sequence[int]], rows: Sequence[Row], spelling: Sequence[bytes]) -> float:
    """As unigram_nats, given the token before."""
    pairs: Counter[tuple[int, int]] = Counter()
    contexts: Counter[int] = Counter()
    for file in train:
        for a, b in itertools.pairwise(file):
            pairs[a, b] += 1
            contexts[a] += 1
    return math.fsum(
        -math.log(Fraction(pairs[a, b] + 1, contexts[a] + len(spelling)))
        for inputs, targets in rows
        for a, b in zip(inputs, targets, strict=True)
        if b != -100 and spelling[b]
    )
