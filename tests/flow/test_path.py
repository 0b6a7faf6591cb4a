"""The whole path through the doors people use: 200 KB of text in, a conversation and a report out."""

import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

PACKAGE = Path(__file__).resolve().parents[2] / "python"
WORDS = (
    "the miller, a grey cat, my neighbour, the old clock, every child, the river, our teacher, a lost sailor",
    "carries, forgets, paints, follows, counts, repairs, hides, sings about, waits for, dreams of",
    "three apples, the north wind, a wooden bridge, seven letters, the last train, a quiet song, warm bread",
    "at noon, in the rain, before winter, on Sundays, after supper, without a word, near the mill",
)


class Home:
    """A folder to work in, and the command line run in it as a stranger would."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def picollm(self, *words: str, code: int = 0) -> str:
        """stdout of one command that must end with `code`."""
        environment = {
            **os.environ, "PYTHONPATH": str(PACKAGE), "PICOLLM_HOME": str(self.root), "OMP_NUM_THREADS": "1",
            "PICOLLM_CACHE": str(self.root / "cache"),
        }  # fmt: skip
        command = [sys.executable, "-m", "picollm.cli.main", *words]
        done = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """200 KB of small stories, 120 files."""
    root = tmp_path_factory.mktemp("home")
    draw = random.Random(1)
    (root / "stories").mkdir()
    for number in range(120):
        lines = [" ".join(draw.choice(part.split(", ")) for part in WORDS).capitalize() + "." for _ in range(40)]
        (root / "stories" / f"{number:03}.txt").write_text("\n".join(lines) + "\n")
    return Home(root)


def test_text_becomes_a_model_that_talks_and_a_page_that_tells_of_it(home: Home) -> None:
    root = home.root
    home.picollm("tok", "train", "stories", "--vocab-size", "400")
    home.picollm("shard", "stories", "--val-ppm", "100000")
    home.picollm(
        "train", "--depth", "2", "--hidden-size", "64", "--heads", "2", "--max-seq-len", "64", "--window-pattern", "L",
        "--total-batch-size", "1024", "--num-iterations", "20", "--name", "stories", "--device", "cpu",
    )  # fmt: skip
    run = root / "runs" / "stories"

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    loss = [line["loss"] for line in lines if line["kind"] == "step"]
    assert len(loss) == 20
    assert loss[-1] < loss[0] - 0.5

    text = home.picollm("chat", "stories", "-p", "The miller", "--seed", "1", "--max-tokens", "20")
    assert text == home.picollm("chat", "stories", "-p", "The miller", "--seed", "1", "--max-tokens", "20")
    assert text.strip()

    assert home.picollm("report", "stories").strip() == str(run / "report.md")
    page = (run / "report.md").read_text()
    assert "20 steps took" in page
    assert all(f"| {name} |" in page for name in ("unigram", "bigram", "gzip", "gzip+train"))
    assert "must not be compared" not in page  # the predictors were asked for the very rows the model was
    assert (run / "loss.svg").read_text().startswith("<svg")


def test_shards_read_by_numpy_alone_hold_what_the_tokenizer_says(home: Home) -> None:
    from picollm.shards.manifest import ShardSet
    from picollm.tok.tokenizer import Tokenizer

    shards = ShardSet.open(home.root / "shards" / "stories")
    tokenizer = Tokenizer.load(shards.path)
    told = [path.read_text() for path in sorted((home.root / "stories").glob("*.txt"))]
    found = []
    for split in ("train", "val"):
        for file in shards.files(split):
            tokens = np.memmap(file, "<u2", "r", 1024)
            offsets = np.load(file.with_suffix(".docs.npy"))
            found += [tokens[a:b].tolist() for a, b in itertools.pairwise(offsets)]
    assert sorted(found) == sorted([tokenizer.bos, *tokenizer.encode(story)] for story in told)
