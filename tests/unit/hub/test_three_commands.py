"""The three literal commands against a Hub on this machine that has fineweb-edu's layout and real prose."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.campaigns.crash import tree
from tests.hub import Hub, running
from tests.unit.hub.conftest import REPO, Run, parquet

from picollm.tok.tokenizer import Tokenizer

pytestmark = pytest.mark.slow
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "-m", "picollm.train", "--target-flops", "1e19"]
TOK_TRAIN = "picollm tok train --vocab-size 65536"


@pytest.fixture(scope="module")
def edu_hub(shared: Path) -> Iterator[Hub]:
    """sample/10BT of nine files: 166 genuine documents, then eight files of textbook prose in the same ten columns."""
    genuine = shared / "data" / "fineweb_edu_real" / "fineweb_edu_166docs.parquet"
    files = {"sample/10BT/000_00000.parquet": genuine.read_bytes()}
    for number, path in enumerate(sorted((shared / "data" / "pretrain_openstax").glob("*.parquet")), 1):
        texts = pq.read_table(path, columns=["text"])["text"].to_pylist()
        files[f"sample/10BT/{number:03}_00000.parquet"] = parquet(texts)
    with running() as hub:
        hub.add(REPO, files)
        yield hub


@pytest.fixture
def root(tmp_path: Path, edu_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home and cache, and that Hub."""
    monkeypatch.setenv("HF_ENDPOINT", edu_hub.url)
    monkeypatch.setenv("PICOLLM_HOME", str(tmp_path))
    monkeypatch.setenv("PICOLLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("picollm.corpus.patience.FIRST_WAIT_SECONDS", 0.01)
    edu_hub.log.clear()
    return tmp_path


def torchrun(*words: str) -> tuple[int, str]:
    done = subprocess.run([*TORCHRUN, *words], capture_output=True, text=True, timeout=250, check=False)
    return done.returncode, done.stderr


def test_the_three_commands_end_as_they_should(root: Path, edu_hub: Hub, run: Run) -> None:
    code, _, err = run("shard", "fineweb-edu")
    assert (code, f"{TOK_TRAIN}\n" in err, edu_hub.log) == (4, True, []), err
    code, _, err = run("train", "--target-flops", "1e19")
    assert (code, "picollm shard fineweb-edu\n" in err) == (4, True), err

    code, _, err = run(*TOK_TRAIN.split()[1:])
    assert code == 0, err
    tokenizer = Tokenizer.load(root / "tokenizers" / "fineweb-edu-65536")
    assert tokenizer.vocab_size == 65_536
    assert edu_hub.count("cdn", "GET") == 9
    edu_hub.log.clear()
    code, out, err = run(*TOK_TRAIN.split()[1:])
    assert (code, "already there and the same" in out, edu_hub.log) == (0, True, []), err

    code, out, err = run("shard", "fineweb-edu")
    assert code == 0, err
    assert f"tokenizer {root / 'tokenizers' / 'fineweb-edu-65536'}" in err
    assert [line.path for line in edu_hub.log if line.server == "cdn"] == []  # all of it lies in the cache
    assert f"{root / 'shards' / 'fineweb-edu'}: " in out

    code, err = torchrun()
    assert (code, "picollm shard fineweb-edu --tokens 4.2B" in err) == (1, True), err  # the launcher's, not the rank's
    assert "4,155,506,688 tokens" in err
    code, _, err = run("train", "--target-flops", "1e19", "--max-epochs", "1e6", "--device-batch-size", "4096")
    assert (code, "--device-batch-size" in err) == (5, True), err


def test_without_a_network_the_first_command_names_the_line_that_works(
    root: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code, _, err = run(*TOK_TRAIN.split()[1:])
    assert (code, f"{TOK_TRAIN} --dataset-name stdlib\n" in err) == (4, True), err
    assert not (root / "tokenizers").exists()


def test_five_million_tokens_over_a_bad_network_are_the_bytes_of_a_good_one(root: Path, edu_hub: Hub, run: Run) -> None:
    """Must-show 1: rate limits, a burst of 503, a cut body and wrong bytes on the way."""
    assert run("tok", "train", "stdlib", "--vocab-size", "8192", "--max-chars", "2M")[0] == 0
    words = ("shard", "fineweb-edu", "--tokens", "5M", "--out")
    code, clean, err = run(*words, str(root / "clean"))
    assert code == 0, err
    edu_hub.fault("/api/", "rate-limit", 1, 1)
    edu_hub.fault("HEAD 001_", "rate-limit", 2, 1)
    edu_hub.fault("cdn:002_", "rate-limit", 1, 1)
    edu_hub.fault("cdn:", "status", 4, 503)
    edu_hub.fault("cdn:003_", "cut", 1, 100_000)
    edu_hub.fault("cdn:004_", "flip", 1)
    code, disturbed, err = run(*words, str(root / "disturbed"))
    edu_hub.faults, left = {}, [fault for faults in edu_hub.faults.values() for fault in faults if fault.times]
    assert (code, left) == (0, []), err
    assert tree(root / "disturbed") == tree(root / "clean")
    assert disturbed.split(":")[1] == clean.split(":")[1]
