from dataclasses import replace

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker

from picollm.model.config import shape
from picollm.model.init import build
from picollm.model.loss import chunk_tokens
from picollm.plan.fit import ways_out
from picollm.plan.memory import FIXED, Place, largest_rows, logits_chunk, memory_of
from picollm.plan.request import TrainRequest

CPU = Place("cpu", "fp32", False, 0, 1)
H100 = Place("cuda", "bf16", True, 79 * 2**30, 8)


def tracked_peak(depth: int, vocab: int, seq_len: int, rows: int, pattern: str, recompute: bool = False) -> int:
    """Bytes at the peak of a second micro-step, gradients of the first in place."""
    model = build(shape(depth, vocab, seq_len, pattern), 1, torch.device("cpu"))
    model.recompute = recompute
    tracker = MemTracker()
    tracker.track_external(model)
    ids = torch.randint(0, vocab, (rows, seq_len + 1), generator=torch.Generator().manual_seed(0))
    with tracker:
        for _ in range(2):
            tracker.reset_mod_stats()
            model.loss_sum(ids[:, :-1].int(), ids[:, 1:]).backward()
    snapshot = tracker.get_tracker_snapshot("peak")
    return int(snapshot[torch.device("cpu")]["Total"])


CASES = [
    (2, 512, 256, 4, "L"),
    (4, 512, 128, 8, "L"),
    (6, 512, 128, 8, "L"),
    (4, 4096, 128, 8, "L"),
    (4, 4096, 512, 2, "SSSL"),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_ledger_is_within_a_tenth_of_what_a_step_takes(case: tuple[int, int, int, int, str]) -> None:
    depth, vocab, seq_len, rows, pattern = case
    ledger = memory_of(shape(depth, vocab, seq_len, pattern), rows, CPU)
    predicted = ledger.total - ledger.holes - ledger.optimizer - FIXED["cpu"]
    assert predicted == pytest.approx(tracked_peak(*case), rel=0.10)


@pytest.mark.slow
def test_recomputing_keeps_what_the_ledger_says() -> None:
    case = (4, 512, 128, 16, "L")
    ledger = memory_of(shape(*case[:3], case[4]), case[3], replace(CPU, recompute=True))
    found = tracked_peak(*case, recompute=True)
    assert ledger.total - ledger.holes - ledger.optimizer - FIXED["cpu"] == pytest.approx(found, rel=0.10)
    assert found < 0.6 * tracked_peak(*case)


def test_where_no_row_fits_recomputing_is_offered() -> None:
    config, tight = shape(24, 32_768), replace(H100, memory=18 * 2**30, ranks=1)
    assert largest_rows(config, tight) == 0 < largest_rows(config, replace(tight, recompute=True))
    ways = list(ways_out(config, TrainRequest(depth=24), tight, 256))
    assert "--recompute --device-batch-size" in ways[0]


@pytest.mark.parametrize("vocab", [265, 4096, 32_768, 65_536])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_plan_and_the_loss_cut_the_same_chunks(vocab: int, device: str) -> None:
    assert logits_chunk(vocab, device) == chunk_tokens(vocab, torch.device(device))


def test_static_bytes_are_those_of_the_specification() -> None:
    ledger = memory_of(shape(24, 65_536), 1, H100)
    assert ledger.weights + ledger.gradients + ledger.optimizer == pytest.approx(12.57e9, abs=5e6)


def test_the_largest_batch_fits_and_one_more_row_does_not() -> None:
    config = shape(24, 65_536)
    rows = largest_rows(config, H100)
    assert memory_of(config, rows, H100).fits
    assert not memory_of(config, rows + 1, H100).fits
    assert largest_rows(config, replace(H100, memory=2**30)) == 0


def test_eight_bits_keep_a_quarter_less_of_each_block() -> None:
    config = shape(24, 65_536)
    whole, small = (memory_of(config, 8, replace(H100, eight_bit=bits)).activations for bits in (False, True))
    assert small / whole == pytest.approx(0.76, abs=0.01)
    assert largest_rows(config, replace(H100, eight_bit=True)) > largest_rows(config, H100)
