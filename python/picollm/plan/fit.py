"""When a plan does not fit in memory: the smallest changes that make it fit."""

from collections.abc import Iterator
from dataclasses import replace

from picollm.model.config import ModelConfig
from picollm.plan.facts import Problem
from picollm.plan.horizon import device_batch, micro_steps
from picollm.plan.memory import Place, largest_rows, memory_of
from picollm.plan.request import TrainRequest
from picollm.plan.shapes import config_of

GIB = 2**30
OFFERED = 3
MAX_RANKS = 8
MIN_SEQ_LEN, MIN_VOCAB = 256, 4096


def out_of_memory(config: ModelConfig, request: TrainRequest, place: Place, step_rows: int, rows: int) -> Problem:
    """The problem (exit 5) with what is needed, what there is, and up to three ways out."""
    need = memory_of(config, rows, place).total
    ways = [way for _, way in zip(range(OFFERED), ways_out(config, request, place, step_rows), strict=False)]
    message = (
        f"E503 out of memory: about {need / GIB:.1f} GiB needed at {rows} rows, {place.memory / GIB:.1f} GiB there"
    )
    return Problem(5, message, "fits: " + "; ".join(ways) if ways else "no change of size fits this device")


def ways_out(config: ModelConfig, request: TrainRequest, place: Place, step_rows: int) -> Iterator[str]:
    """Changes that fit, the mildest first: same result, then more devices, then another model."""
    largest = largest_rows(config, place)
    if largest:
        rows = device_batch(step_rows, place.ranks, largest)
        accum = micro_steps(step_rows, place.ranks, rows)
        yield f"--device-batch-size {rows} (accum x{accum}, same result)"
    elif not place.recompute and (largest := largest_rows(config, replace(place, recompute=True))):
        rows = device_batch(step_rows, place.ranks, largest)
        yield f"--recompute --device-batch-size {rows} (a third more time, same result)"
    if place.device != "cpu":
        for ranks in (2, 4, MAX_RANKS):
            if ranks > place.ranks and largest_rows(config, replace(place, ranks=ranks)):
                yield f"--nproc-per-node {ranks} (optimizer state shared, same result)"
                break
    depth, vocab = config.depth, config.vocab_size
    length = config.seq_len // 2
    while length >= MIN_SEQ_LEN:
        if largest_rows(config_of(depth, vocab, replace(request, max_seq_len=length)), place):
            yield f"--max-seq-len {length}"
            break
        length //= 2
    smaller = vocab // 2
    while smaller >= MIN_VOCAB:
        if largest_rows(config_of(depth, smaller, request), place):
            yield f"--vocab-size {smaller} (another tokenizer and shards)"
            break
        smaller //= 2
    for less in range(depth - 2, 0, -2):
        if request.hidden_size is None and largest_rows(config_of(less, vocab, request), place):
            yield f"--depth {less}"
            break
