"""What `shard stats` says of a set is what packing its documents gives."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from picollm.corpus.source import open_source
from picollm.errors import UsageError
from picollm.shards.build import MAX_RAM, RAM_BASE, RAM_PER_WORKER, build, workers_within
from picollm.shards.lengths import PACKINGS, histogram, packed, stats

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=60).map(lambda each: np.array(each, np.uint32))


@given(lengths=LENGTHS, seq_len=st.integers(1, 100), packing=st.sampled_from(PACKINGS))
def test_rows_hold_every_token_and_nothing_else(lengths: np.ndarray, seq_len: int, packing: str) -> None:
    found = packed(lengths, packing, seq_len)
    assert found.rows * (seq_len + 1) == lengths.sum() + found.inserted_bos + found.padding_tokens
    assert found.padding_tokens >= 0
    long = int((lengths > seq_len + 1).sum())
    assert found.cut == long + found.cut_needlessly
    assert found.cut_needlessly == 0 or packing == "concat"


@given(lengths=LENGTHS)
def test_the_histogram_counts_every_document_and_token_once(lengths: np.ndarray) -> None:
    bins = histogram(lengths)
    assert sum(each["n_docs"] for each in bins) == len(lengths)
    assert sum(each["n_tokens"] for each in bins) == lengths.sum()
    assert all(one["below"] == two["from"] for one, two in itertools.pairwise(bins))


@pytest.mark.row("K14")
def test_stats_of_a_set_drop_nothing_and_pad_less_than_a_percent(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    made = build(open_source(str(corpus)), tokenizer, tmp_path)
    found = stats(tmp_path, 64)
    assert (found["n_docs"], found["n_tokens"]) == (made.train_documents, made.train_tokens)
    assert [each["packing"] for each in found["packing"]] == ["bestfit", "concat"]
    for each in found["packing"]:
        assert each["dropped_tokens"] == 0
        assert each["padding_tokens"] < 65 + 0.02 * found["n_tokens"]


def test_memory_bounds_the_segments_at_a_time() -> None:
    assert workers_within(64, MAX_RAM) == (MAX_RAM - RAM_BASE) // RAM_PER_WORKER
    assert workers_within(2, MAX_RAM) == 2
    assert workers_within(7, RAM_BASE + 2 * RAM_PER_WORKER) == 2
    with pytest.raises(UsageError, match="198 MiB"):
        workers_within(1, RAM_BASE)
