"""The plain twin of `infer.sample.distribution`: lists, loops and one rule after the other."""

import math


def distribution(
    logits: list[float], temperature: float, top_k: int | None, top_p: float, min_p: float
) -> dict[int, float]:
    """Token → probability, of the tokens that stay."""
    ranked = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    if temperature == 0:
        return {ranked[0]: 1.0}
    best = logits[ranked[0]]
    weights = {token: math.exp((logits[token] - best) / temperature) for token in ranked}

    if top_k is not None:
        weights = {token: weights[token] for token in ranked[:top_k]}

    total = math.fsum(weights.values())
    head: dict[int, float] = {}
    for token, weight in weights.items():
        if top_p < 1 and math.fsum(head.values()) / total >= top_p:
            break
        head[token] = weight

    largest = max(head.values())
    stay = {token: weight for token, weight in head.items() if weight >= min_p * largest}
    total = math.fsum(stay.values())
    return {token: weight / total for token, weight in stay.items()}
