"""From what was said about size to a model's config, and the choice of a depth for a budget."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from picollm.errors import UsageError
from picollm.model.config import NARROW_HEAD, WIDE_HEAD, WIDTH_PER_DEPTH, ModelConfig, shape
from picollm.model.counts import count
from picollm.plan.laws import RATIO_TARGET
from picollm.plan.request import TrainRequest

SEQ_LEN = 2048
WINDOW_PATTERN = "SSSL"
VOCAB = 32_768  # assumed where there is neither a tokenizer nor shards, said aloud
DEPTH = 12  # where the rates were tuned; only `plan` with nothing said falls back on it
DEPTHS = range(2, 65, 2)


@dataclass(frozen=True)
class Width:
    """`asked` channels became `width` = heads x head_dim."""

    asked: int
    width: int
    heads: int
    head_dim: int


def width_of(depth: int, request: TrainRequest) -> Width:
    """Width and heads at this depth. Raises UsageError where what was said does not multiply out."""
    heads, head_dim, hidden = request.heads, request.head_dim, request.hidden_size
    if heads and head_dim:
        if hidden and heads * head_dim != hidden:
            raise UsageError(f"{heads} heads x {head_dim} = {heads * head_dim}, but hidden size is {hidden}")
        return Width(heads * head_dim, heads * head_dim, heads, head_dim)
    if hidden and request.aspect_ratio and math.ceil(request.aspect_ratio * depth) != hidden:
        wanted = math.ceil(request.aspect_ratio * depth)
        raise UsageError(f"{depth} layers x {request.aspect_ratio:g} = {wanted:,}, but hidden size is {hidden:,}")
    asked = hidden or math.ceil((request.aspect_ratio or WIDTH_PER_DEPTH) * depth)
    if heads:
        if hidden and hidden % heads:
            raise UsageError(f"{heads} heads do not divide the hidden size {hidden:,}")
        head_dim = 2 * math.ceil(asked / heads / 2)  # rotation needs pairs
        return Width(asked, heads * head_dim, heads, head_dim)
    head_dim = head_dim or (WIDE_HEAD if asked >= 2 * WIDE_HEAD else NARROW_HEAD)
    heads = math.ceil(asked / head_dim)
    return Width(asked, heads * head_dim, heads, head_dim)


def config_of(depth: int, vocab_size: int, request: TrainRequest) -> ModelConfig:
    """The model of this depth under everything else the request says."""
    flags = {name: getattr(request, name) for name in ("value_embeds", "backout", "smear", "arch")}
    if depth == 1 and request.backout is None:
        flags["backout"] = False  # it takes half depth back out: one layer has none
    size = width_of(depth, request)
    return shape(
        depth,
        vocab_size,
        request.max_seq_len or SEQ_LEN,
        request.window_pattern or WINDOW_PATTERN,
        width=size.width,
        heads=size.heads,
        head_dim=size.head_dim,
        kv_heads=request.kv_heads,
        **{name: value for name, value in flags.items() if value is not None},
    )


@dataclass(frozen=True)
class Choice:
    """The depth taken for a budget, its tokens per scaling parameter, and those of both neighbours."""

    depth: int
    ratio: float
    neighbours: tuple[tuple[int, float], ...]


def choose_depth(
    tokens_at: Callable[[ModelConfig], float], config_at: Callable[[int], ModelConfig], target: float = RATIO_TARGET
) -> Choice:
    """The even depth 2 … 64 whose ratio is nearest `target` on a logarithmic scale, ties to the smaller.

    `tokens_at(config)` is what the budget gives that model. Raises UsageError when the best lies beyond 64.
    """

    def ratio(depth: int) -> float:
        config = config_at(depth)
        return tokens_at(config) / count(config).scaling

    def distance(depth: int) -> float:
        return abs(math.log(ratio(depth) / target))

    best = min(DEPTHS, key=distance)
    if best == DEPTHS[-1] and distance(best + 2) < distance(best):
        raise UsageError(
            f"this budget wants a model deeper than {best} layers ({ratio(best):.0f} tokens per parameter there)",
            hint="say --depth, or a smaller budget",
        )
    near = tuple((depth, ratio(depth)) for depth in (best - 2, best + 2) if depth in DEPTHS)
    return Choice(best, ratio(best), near)
