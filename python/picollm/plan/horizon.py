"""How long a run is: one horizon to tokens, steps and tokens per step. The result is the true horizon."""

from dataclasses import dataclass

from picollm.errors import UsageError
from picollm.plan import laws
from picollm.plan.request import TrainRequest


@dataclass(frozen=True)
class Batch:
    """Rows and tokens of one update; `source` says why this many."""

    rows: int  # G
    tokens: int  # G x T
    source: str


@dataclass(frozen=True)
class Horizon:
    """`steps` updates of `batch`: from here `tokens` is their product and nothing else."""

    steps: int
    batch: Batch

    @property
    def tokens(self) -> int:
        return self.steps * self.batch.tokens


def batch_of(tokens_per_step: int, seq_len: int, source: str) -> Batch:
    """Whole rows: at least one."""
    rows = max(1, round(tokens_per_step / seq_len))
    return Batch(rows, rows * seq_len, source)


def from_steps(steps: int, seq_len: int, tokens_per_step: int | None) -> Horizon:
    """Steps are the horizon; the batch as given, else by the law solved for steps. Never halved (rule 2)."""
    if tokens_per_step is None:
        return Horizon(steps, batch_of(laws.batch_for_steps(steps), seq_len, "batch law, steps given"))
    return Horizon(steps, batch_of(tokens_per_step, seq_len, "given"))


def from_tokens(tokens: float, seq_len: int, tokens_per_step: int | None) -> Horizon:
    """Tokens are the horizon; the batch as given, else by the law, halved while the run is under 200 steps."""
    if tokens_per_step is not None:
        batch = batch_of(tokens_per_step, seq_len, "given")
    else:
        law = laws.batch_for_tokens(tokens)
        kept = laws.halve_for_steps(tokens, law, seq_len)
        source = (
            "rule: batch law" if kept == law else f"rule: batch law wants {law:,}, halved for {laws.MIN_STEPS} steps"
        )
        batch = batch_of(kept, seq_len, source)
    return Horizon(max(1, round(tokens / batch.tokens)), batch)


def given_batch(request: TrainRequest, seq_len: int, ranks: int) -> int | None:
    """Tokens per step where the request fixes them. Raises UsageError where its numbers disagree."""
    rows, accum, total = request.device_batch_size, request.grad_accum, request.total_batch_size
    if accum is None:
        return total
    if rows is not None:
        product = rows * ranks * accum * seq_len
        if total is not None and total != product:
            raise UsageError(f"{rows} x {ranks} x {accum} x {seq_len} = {product:,}, not {total:,}")
        return product
    if total is not None and total % (ranks * accum * seq_len):
        part = ranks * accum * seq_len
        raise UsageError(
            f"{total:,} tokens do not divide into {accum} micro-steps x {ranks} devices x {seq_len} = {part:,}"
        )
    return total


def micro_steps(rows: int, ranks: int, device_batch: int) -> int:
    """A: micro-steps that cover G rows; slots past G are masked."""
    return -(-rows // (ranks * device_batch))


def device_batch(rows: int, ranks: int, largest: int) -> int:
    """B: the largest up to `largest` that leaves no masked slot, unless that costs over half of it.

    Where nothing near divides, the fewest micro-steps decide and B shrinks to waste the fewest slots.
    """
    share = -(-rows // ranks)
    largest = max(1, min(largest, share))
    for candidate in range(largest, (largest - 1) // 2, -1):
        if rows % (ranks * candidate) == 0:
            return candidate
    return -(-rows // (ranks * micro_steps(rows, ranks, largest)))
