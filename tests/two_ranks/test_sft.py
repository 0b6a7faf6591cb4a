"""Fine-tuning on two ranks is fine-tuning on one: the same conversations, the same curve, one chat model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.train.base_run import base_run

from picollm.ckpt.store import load_model

REPOSITORY = Path(__file__).resolve().parents[2]
STEPS = 12
pytestmark = pytest.mark.slow


def tuned(runs: Path, chats: Path, name: str, *launcher: str) -> Path:
    """The command as it is typed, behind torchrun or not."""
    command = [sys.executable, *launcher, "-m", "picollm.cli.main", "sft", "base", "--dataset-name", str(chats)]
    options = ["--num-iterations", str(STEPS), "--eval-every", "6", "--total-batch-size", "512"]
    options += ["--device-batch-size", "2", "--device", "cpu", "--runs-dir", str(runs), "--name", name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY / "python")}
    done = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return runs / name


def curve(run: Path, kind: str, field: str) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[field] for line in lines if line["kind"] == kind]


def test_two_ranks_tune_as_one_does(tmp_path: Path) -> None:
    runs, chats = tmp_path / "runs", tmp_path / "few.jsonl"
    base_run(runs)
    turns = [(f"who are you {n}?", "I am Pico." * (1 + n % 3)) for n in range(60)]
    messages = [[{"role": "user", "content": ask}, {"role": "assistant", "content": said}] for ask, said in turns]
    chats.write_text("".join(json.dumps({"messages": one}) + "\n" for one in messages))
    one = tuned(runs, chats, "one")
    two = tuned(runs, chats, "two", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    for kind, field, count in (("step", "loss", STEPS), ("step", "n_valid", STEPS), ("eval", "bpb", 3)):
        alone, together = curve(one, kind, field), curve(two, kind, field)
        assert len(alone) == count
        assert together == pytest.approx(alone, rel=1e-4, abs=3e-5)  # the order of sums, in nats: losses fall to 0.1
    assert load_model(two).meta.stage == "sft"
