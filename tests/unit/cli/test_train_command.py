"""Rows of the product's table of knobs that `train` answers: a run started by the command, and what it leaves."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from picollm.ckpt.store import load_model
from picollm.cli.main import main
from picollm.corpus.source import open_source
from picollm.layout import Layout
from picollm.runtime.runlog import METRICS, read
from picollm.shards.build import build

PACKAGE = Path(__file__).resolve().parents[3] / "python"
SHAPE = ["--depth", "2", "--hidden-size", "32", "--head-dim", "16", "--max-seq-len", "32", "--window-pattern", "L",
         "--device", "cpu", "--val-tokens", "1024", "--peak-flops", "1e10", "--workers", "1"]  # fmt: skip
ROOM = 500  # MiB: too little for a step of 4,096 rows
BATCH = ["--total-batch-size", "256", "--device-batch-size", "4"]


@pytest.fixture(autouse=True)
def place(home: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICOLLM_HOME", str(home.root))


def train(*words: str, code: int = 0) -> None:
    with pytest.raises(SystemExit) as done:
        main(["train", *SHAPE, *words])
    assert done.value.code == code


def steps(run: Path) -> list[tuple[int, str]]:
    return [(line["step"], line["loss_hex"]) for line in read(run / METRICS) if line["kind"] == "step"]


@pytest.mark.row("K1")
def test_a_corpus_is_trained_on_where_its_shards_exist_and_named_where_not(
    home: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    train("--dataset-name", "tiny", "--num-iterations", "1", "--name", "by-corpus", *BATCH)
    assert read(home.runs / "by-corpus" / METRICS)
    capsys.readouterr()
    train("--dataset-name", "climbmix", "--num-iterations", "1", *BATCH, code=4)
    assert "picollm shard climbmix" in capsys.readouterr().err


@pytest.mark.row("K22", "K31")
def test_a_run_logs_its_batch_as_a_product_and_keeps_few_checkpoints(home: Layout) -> None:
    train(*BATCH, "--num-iterations", "8", "--save-steps", "1", "--keep", "2", "--eval-every", "3", "--name", "kept")
    run = home.runs / "kept"
    (line,) = [line for line in (run / "train.log").read_text().splitlines() if "effective batch" in line]
    assert "4 rows x 32 tokens x 1 ranks x 2 micro-steps = 256 tokens/step" in line
    assert 1 <= len(list((run / "checkpoints").iterdir())) <= 3


@pytest.mark.row("K32")
def test_twenty_steps_twice_are_forty_and_a_copied_checkpoint_needs_nothing_else(
    home: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*BATCH, "--num-iterations", "40", "--eval-every", "20")
    train(*words, "--name", "whole")
    train(*words, "--name", "halves", "--stop-after", "20steps")
    assert len(steps(home.runs / "halves")) == 20
    train(*words, "--name", "halves", "--resume", "auto")
    assert steps(home.runs / "halves") == steps(home.runs / "whole")
    newest = max((home.runs / "halves" / "checkpoints").iterdir())
    copied = tmp_path / "elsewhere"
    newest.rename(copied)
    monkeypatch.setenv("PICOLLM_HOME", str(tmp_path / "nothing"))
    capsys.readouterr()
    with pytest.raises(SystemExit) as done:
        main(["chat", str(copied), "-p", "kana", "--max-tokens", "5", "--seed", "1"])
    assert done.value.code == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.row("K25")
def test_a_rate_far_too_high_ends_in_e501_with_a_checkpoint_that_loads(
    home: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--num-iterations", "30", "--learning-rate", "1e30", "--save-every", "1", "--eval-every", "30")
    train(*BATCH, *words, "--name", "hot", code=1)
    err = capsys.readouterr().err
    assert re.search(r"E501 loss not finite at step \d+", err)
    assert "try --learning-rate" in err
    load_model(max((home.runs / "hot" / "checkpoints").iterdir()))


@pytest.mark.row("K38")
def test_without_a_compiler_one_warning_and_eager_mode(home: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    words = (*BATCH, "--num-iterations", "2", "--compile", "on")
    train(*words, "--name", "eager")
    said = (home.runs / "eager" / "train.log").read_text()
    assert said.count("W304 torch.compile unavailable (no C++ compiler): running eager") == 1
    train(*words, "--name", "hushed", "--quiet-warnings", "w304")
    assert "W304" not in (home.runs / "hushed" / "train.log").read_text()


def test_strict_refuses_a_warned_run_before_it_begins(home: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    words = (*BATCH, "--num-iterations", "2", "--name", "strict", "--strict")
    train(*words, code=3)
    err = capsys.readouterr().err
    codes = re.search(r"under --strict: (.*)", err)
    assert codes is not None
    assert not (home.runs / "strict").exists()
    train(*words, "--quiet-warnings", codes[1].replace(" ", ""))
    assert (home.runs / "strict" / "exit.json").exists()


@pytest.mark.slow
@pytest.mark.row("K48")
def test_learning_by_heart_is_said_with_the_best_checkpoint(
    home: Layout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = Layout(tmp_path)
    monkeypatch.setenv("PICOLLM_HOME", str(root.root))
    (tmp_path / "text").mkdir()
    for path in sorted((home.root / "text").iterdir())[:30]:
        (tmp_path / "text" / path.name).write_text(path.read_text()[:200])
    source = open_source(str(tmp_path / "text"))
    build(source, home.tokenizers / "tiny", root.shards / "few", val_ppm=200_000, workers=1)
    words = ("--max-epochs", "1000", "--num-iterations", "120", "--eval-every", "10", "--keep", "1")
    train(*BATCH, *words, "--learning-rate", "0.5", "--name", "by-heart")
    run = root.runs / "by-heart"
    said = re.search(
        r"W403 val worse for 5 evals while train improves \(gap [\d.]+\): best checkpoint is step ([\d,]+)",
        (run / "train.log").read_text(),
    )
    assert said is not None
    assert json.loads((run / "best.json").read_text())["step"] == int(said[1].replace(",", ""))
    with pytest.raises(SystemExit):
        main(["report", "by-heart"])
    assert "**W403**" in (run / "report.md").read_text()


@pytest.mark.slow
@pytest.mark.row("K49", "C17")
@pytest.mark.skipif(sys.platform != "linux", reason="a limit on a process's data is Linux's")
def test_a_step_that_the_system_refuses_names_what_fits_and_the_checkpoint_before_it_loads(home: Layout) -> None:
    """The allocator is refused for real: this process may take ROOM MiB more and no further."""
    words = ["--total-batch-size", str(2**17), "--num-iterations", "2", "--seed", "3", "--max-epochs", "100"]
    words += ["--name", "small"]
    train(*words, "--device-batch-size", "256", "--stop-after", "1")
    words += ["--device-batch-size", "4096"]
    code = (
        "import resource, sys, picollm.train.run, picollm.cli.train\n"
        "from picollm.cli.main import main\n"
        "held = next(line for line in open('/proc/self/status') if line.startswith('VmData'))\n"
        "most = int(held.split()[1]) * 1024 + (ROOM << 20)\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (most, most))\n"
        "main(sys.argv[1:])\n"
    ).replace("ROOM", str(ROOM))
    done = subprocess.run(
        [sys.executable, "-c", code, "train", *SHAPE, *words],
        capture_output=True, text=True, env={"PYTHONPATH": str(PACKAGE), "PICOLLM_HOME": str(home.root),
                                             "OMP_NUM_THREADS": "1", "PATH": ""},
    )  # fmt: skip
    assert "E503 out of memory at 4096 rows per device: weights" in done.stderr, done.stderr
    assert done.returncode == 5, done.stderr
    assert re.search(r"fits: --device-batch-size \d+ \(accum x\d+, same result\)", done.stderr)
    assert json.loads((home.runs / "small" / "exit.json").read_text())["code"] == 5
    train(*words[:-1], "256")
    assert [step for step, _ in steps(home.runs / "small")] == [1, 2]


def test_every_spelling_of_the_course_note_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PICOLLM_HOME", str(tmp_path))
    note = "--block-size 256 --layers 4 --heads 4 --hidden-size 256 --batch-size 4 --grad-accum 2 --learning-rate 0.04"
    more = "--max-steps 20 --save-steps 10 --bf16 --dataset-name fineweb-edu --dataset-config sample-10BT"
    with pytest.raises(SystemExit) as done:
        main(["train", "--dry-run", *f"{note} {more} --dataset-split train --text-column text".split()])
    assert done.value.code == 0
    out = capsys.readouterr().out
    assert "4 layers x 256 wide, 4 heads x 64" in out
    assert "4 seq x 256 tok x 1 process x accum 2 = 2,048 tokens/step" in out
    assert "20 steps" in out
    assert "save every 10steps" in out
    assert "picollm shard fineweb-edu --dataset-config sample-10BT --dataset-split train --text-column text" in out
