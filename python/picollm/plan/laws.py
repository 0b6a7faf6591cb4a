"""The scaling rules: from tokens to batch, rates and decay. Every constant stands here, once, with its source.

The rules are those of docs/design (training specification 3.2, 3.3). They read the *true* horizon, steps x tokens
per step, and nothing else: two requests that end in the same (shape, batch, steps) get the same rates.
"""

import math

from picollm.model.config import ModelConfig
from picollm.model.counts import count

GTOK_REF = 2**19  # tokens per step at which the rates were tuned (depth 12; nanochat LOG 2026-02-05)
TOK_REF = 1_321_210_944  # tokens of that run: 12 x 110,100,912 scaling parameters (depth 12, vocabulary 32,768)
WIDTH_REF = 768  # width of that model
BATCH_EXPONENT = 0.383  # tokens per step grow as tokens^0.383: Power Lines, arXiv 2505.13738
WIDTH_EXPONENT = -0.5  # AdamW tables only; nanochat
DECAY_REF = 0.28  # peak Muon decay at (GTOK_REF, TOK_REF): nanochat search of March 2026, depth 12
STEP_DECAY_MAX = 0.01  # rate x decay: past it the decay forgets as fast as Muon's momentum (33 steps); judgement
RATIO_TARGET = 12.0  # tokens per scaling parameter; nanochat's default, its older fit gave 10.3-11.2

MIN_STEPS = 200  # below it the batch is halved: a run needs steps; judgement
GTOK_FLOOR = 2**14  # halving stops here
# A run of up to SHORT_STEPS steps keeps SHORT_SCALE of the base rates whatever its batch (ours: dev/LOG.md 2026-11-23).
SHORT_STEPS, SHORT_SCALE = 600, 0.5

WARMUP_SHARE, WARMUP_MAX = 0.02, 40
RAMP_SHARE, RAMP_MAX = 0.15, 400
WARMDOWN_SHARE = 0.65
FINAL_FRACTION = 0.05


def batch_for_tokens(tokens: float) -> int:
    """Tokens per step for a run of `tokens`: the law's value at the nearest power of two."""
    return power_of_two(GTOK_REF * (tokens / TOK_REF) ** BATCH_EXPONENT)


def batch_for_steps(steps: int) -> int:
    """Tokens per step when only the steps are known: the law solved for tokens = steps x batch."""
    return power_of_two((GTOK_REF * (steps / TOK_REF) ** BATCH_EXPONENT) ** (1 / (1 - BATCH_EXPONENT)))


def power_of_two(value: float) -> int:
    """The nearest power of two on a logarithmic scale, at least 1."""
    return int(2 ** max(0, round(math.log2(value))))


def halve_for_steps(tokens: float, batch: int, seq_len: int) -> int:
    """Halve the tokens per step while the run would have fewer than MIN_STEPS."""
    floor = max(GTOK_FLOOR, seq_len)
    while tokens / batch < MIN_STEPS and batch > floor:
        batch //= 2
    return batch


def batch_scale(tokens_per_step: int) -> float:
    """Rates grow as the square root of the batch: Adam theory; assumed for Muon (nanochat LOG 2026-02-05)."""
    return math.sqrt(tokens_per_step / GTOK_REF)


def lr_scale(tokens_per_step: int, steps: int) -> float:
    """The batch's scale, but never so small that a short run stands still.

    A Muon update has a fixed size, so a run of few steps must take full ones to get anywhere. The floor falls
    as 1 / steps and is below the batch's scale in every run the rates were tuned on.
    """
    return max(batch_scale(tokens_per_step), SHORT_SCALE * min(1.0, SHORT_STEPS / steps))


def width_scale(width: int) -> float:
    """Rates of the AdamW tables shrink as the square root of the width."""
    return float((width / WIDTH_REF) ** WIDTH_EXPONENT)


def wanted_decay(tokens_per_step: int, tokens: int) -> float:
    """Peak Muon decay that keeps batch / (rate x decay x tokens) constant (arXiv 2405.13698)."""
    return DECAY_REF * batch_scale(tokens_per_step) * TOK_REF / tokens


def clamped_decay(wanted: float, muon_lr: float) -> float:
    """`wanted`, held so that rate x decay <= STEP_DECAY_MAX."""
    return min(wanted, STEP_DECAY_MAX / muon_lr)


def warmup_steps(steps: int) -> int:
    return max(1, min(WARMUP_MAX, round(WARMUP_SHARE * steps)))


def ramp_steps(steps: int) -> int:
    return max(1, min(RAMP_MAX, round(RAMP_SHARE * steps)))


def warmdown_steps(steps: int, share: float = WARMDOWN_SHARE) -> int:
    return round(share * steps)


def tokens_for_ratio(ratio: float, config: ModelConfig) -> float:
    """Tokens of a run with `ratio` tokens per scaling parameter."""
    return ratio * count(config).scaling
