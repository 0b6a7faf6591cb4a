"""The whole path through the doors people use: 200 KB of text in, a conversation and a report out."""

import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
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

    def start(self, *words: str) -> subprocess.Popen[str]:
        environment = {
            **os.environ, "PYTHONPATH": str(PACKAGE), "PICOLLM_HOME": str(self.root), "OMP_NUM_THREADS": "1",
            "PICOLLM_CACHE": str(self.root / "cache"),
        }  # fmt: skip
        command = [sys.executable, "-m", "picollm.cli.main", *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.root, env=environment, stdout=pipe, stderr=pipe, text=True)

    def picollm(self, *words: str, code: int = 0) -> str:
        """stdout of one command that must end with `code`."""
        with self.start(*words) as process:
            out, err = process.communicate(timeout=240)
        assert process.returncode == code, f"{words}: {process.returncode}\n{out}\n{err}"
        return out


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
    assert loss[-1] < loss[0] - 0.3

    said = json.loads(home.picollm("eval", "stories", "--json", "--device", "cpu"))
    [last] = [line for line in lines if line["kind"] == "eval"][-1:]
    assert said["schema"] == "picollm-eval/1"
    assert said["bpb"]["set_hash"] == last["set_hash"]
    assert said["bpb"]["bpb"] == pytest.approx(last["bpb"], rel=1e-6)

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


def test_quickstart_stopped_in_the_middle_goes_on_and_ends_in_two_replies(home: Home) -> None:
    words = ("quickstart", "--minutes", "0.4", "--seed", "7")
    with home.start(*words) as process:
        wait_for(home.root / "runs" / "quickstart" / "plan.json", process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 130, out + err
        assert "the same command again goes on" in err

    out = home.picollm(*words)
    assert [line[:5] for line in out.splitlines() if line.startswith("[")] == [f"[{n}/6]" for n in range(1, 7)]
    assert "already in" in out
    assert out.count("you> ") == 2
    assert "unigram" in out
    assert "gzip" in out
    assert sorted(path.name for path in (home.root / "runs").glob("quickstart*")) == ["quickstart", "quickstart-sft"]
    for name in ("quickstart", "quickstart-sft"):
        assert (home.root / "runs" / name / "report.md").is_file()
        assert (home.root / "runs" / name / "loss.svg").is_file()
    times, total = re.search(r"time:  (.*) = ([\d.]+) s of", out).groups()
    assert sum(float(part.split()[1]) for part in times.split(" + ")) == pytest.approx(float(total), abs=0.4)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Until `path` exists; a process that ends before has failed."""
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
