"""The predictors a model must beat agree with their slow twins, and with gzip itself."""

import gzip
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.reference.baselines import bigram_nats, unigram_nats
from tests.unit.evals.test_bpb import Alone, Bigram, Fixed

from picollm.evals import baselines
from picollm.evals.bpb import bits_per_byte, fixed_rows

SPEECH = "to be or not that is the question whether tis nobler in mind suffer slings arrows of"
WORDS = ["", "", *SPEECH.split(), "é"]
SPELLING = [word.encode() for word in WORDS]  # id 0 and 1 are empty: specials
VOCAB = len(SPELLING)


def shard(path: Path, tokens: np.ndarray) -> Path:
    path.write_bytes(bytes(1024) + tokens.astype("<u2").tobytes())
    return path


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    draw = np.random.default_rng(3)
    folder = tmp_path_factory.mktemp("train")
    return [shard(folder / f"train_{i:06}.bin", draw.zipf(1.5, 700) % VOCAB) for i in range(3)]


@pytest.fixture(scope="module")
def rows() -> baselines.Rows:
    block = (np.random.default_rng(4).zipf(1.5, (11, 9)) % VOCAB).astype(np.int32)
    targets = block[:, 1:].copy()
    targets[3, 5:] = -100
    targets[10] = -100
    return baselines.Rows(block[:, :-1], targets, SPELLING)


def as_lists(files: list[Path]) -> list[list[int]]:
    return [np.memmap(file, "<u2", "r", 1024).tolist() for file in files]


@pytest.mark.parametrize("chunk", [baselines.CHUNK_TOKENS, 64])
def test_counted_predictors_agree_with_dictionaries(
    train: list[Path], rows: baselines.Rows, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines, "CHUNK_TOKENS", chunk)
    found = baselines.measure(train, "uint16", rows)
    pairs = list(zip(rows.inputs.tolist(), rows.targets.tolist(), strict=True))
    assert found["unigram"].nats == pytest.approx(unigram_nats(as_lists(train), pairs, SPELLING), rel=1e-12)
    assert found["bigram"].nats == pytest.approx(bigram_nats(as_lists(train), pairs, SPELLING), rel=1e-12)


def test_a_limit_counts_the_start_of_the_training_split_only(train: list[Path], rows: baselines.Rows) -> None:
    found = baselines.measure(train, "uint16", rows, fit_tokens=1000)
    first, second, _ = as_lists(train)
    pairs = list(zip(rows.inputs.tolist(), rows.targets.tolist(), strict=True))
    assert found["bigram"].nats == pytest.approx(bigram_nats([first, second[:300]], pairs, SPELLING), rel=1e-12)


def test_all_baselines_stand_on_the_bytes_and_rows_of_the_model(train: list[Path]) -> None:
    block = np.random.default_rng(5).integers(0, 8, (16, 9))
    spelling = [b"", *[bytes([96 + n]) * n for n in range(1, 8)], *[b"x"] * 42]
    rows = fixed_rows(Fixed(block, 6, 4), spelling)
    lengths = torch.tensor([len(word) for word in spelling])
    model = bits_per_byte(Bigram(1.0), Fixed(block, 8, 4), lengths, Alone())
    for found in baselines.measure(train, "uint16", rows).values():
        assert (found.bytes, found.tokens, found.set_hash) == (model.bytes, model.tokens, model.set_hash)


def test_gzip_alone_is_what_gzip_itself_makes(rows: baselines.Rows) -> None:
    text = b"".join(rows.texts())
    found = baselines.gzip_alone(rows)
    assert found.bytes == len(text)
    assert found.bpb * len(text) / 8 == pytest.approx(len(gzip.compress(text, 9, mtime=0)))


def test_gzip_knows_no_training_text_until_it_is_given_some() -> None:
    spelling = [bytes([value]) for value in range(256)]
    text = np.random.default_rng(6).integers(0, 256, (4, 400)).astype(np.int32)  # nothing to find inside
    rows = baselines.Rows(np.zeros_like(text), text, spelling)
    known = baselines.gzip_primed(text.astype(np.uint8).tobytes(), rows)
    unknown = baselines.gzip_primed(b"", rows)
    assert known.bpb < 0.4 < 8 <= unknown.bpb


def test_an_unseen_token_is_improbable_and_not_impossible(tmp_path: Path) -> None:
    files = [shard(tmp_path / "train_000000.bin", np.full(100, 2))]
    rows = baselines.Rows(np.array([[3]], np.int32), np.array([[4]], np.int32), SPELLING)
    found = baselines.measure(files, "uint16", rows)
    assert found["unigram"].nats == pytest.approx(math.log(100 + VOCAB))
    assert found["bigram"].nats == pytest.approx(math.log(VOCAB))
