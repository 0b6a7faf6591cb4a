"""What a training will take is told from a part of it."""

from dataclasses import replace
from pathlib import Path

import pytest

from picollm.corpus.source import Source, SourceFile, open_source
from picollm.tok.forecast import Sample, forecast, power_of
from picollm.tok.train import train_tokenizer


@pytest.mark.row("K9")
def test_what_a_sample_says_of_the_whole_is_about_right(shared: Path) -> None:
    source = open_source(str(shared / "data/bench_corpus/english_100.parquet"))
    told = forecast(source, 4096, workers=2)
    assert told is not None
    made = train_tokenizer(source, 4096, workers=2).made["counts"]
    assert told.sampled_segments < told.segments == made["segments"]
    for said, true in ((told.bytes, made["bytes"]), (told.distinct_pieces, made["distinct_pieces"])):
        assert true / 2 < said < true * 2
    assert told.memory > 10 * 2**20
    half = forecast(source, 4096, max_chars=made["chars"] // 2)
    assert half is not None
    assert half.segments < told.segments
    assert half.distinct_pieces < told.distinct_pieces


def test_of_files_that_are_not_here_nothing_can_be_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some text")
    source: Source = open_source(str(tmp_path / "a.txt"))
    assert forecast(source, 300) is not None
    assert forecast(replace(source, files=(SourceFile("elsewhere.txt", 9),)), 300) is None


def test_distinct_pieces_grow_slower_than_text() -> None:
    one = Sample(1000, 1000, 100, 0, 0.1)
    assert power_of(one, Sample(4000, 4000, 200, 0, 0.1)) == pytest.approx(0.5)
    assert power_of(one, one) == 1.0
    assert power_of(one, Sample(4000, 4000, 90, 0, 0.1)) == 0.0
