import json
import os
from pathlib import Path

import pytest

from picollm.cli.main import main
from picollm.cli.runfiles import changed, find_run
from picollm.cli.runs import status, thinned
from picollm.plan.facts import DataFacts
from picollm.plan.request import TrainRequest
from picollm.plan.resolve import resolve
from picollm.report.run import Run
from picollm.runtime.machine import Machine


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PICOLLM_HOME", str(tmp_path))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as done:
        main(["runs", *words])
    out, err = capsys.readouterr()
    assert isinstance(done.value.code, int)
    return done.value.code, out, err


def make(home: Path, name: str, *, steps: int = 20, shift: float = 0.0, code: int | None = 0, vocab: int = 512,
         tokenizer: str = "a" * 64) -> Path:  # fmt: skip
    """A run's files, as the trainer leaves them."""
    folder = home / "runs" / name
    folder.mkdir(parents=True)
    facts = DataFacts("stdlib", "shards/stdlib", "f" * 64, tokenizer, vocab, 10**6, 10**5)
    request = TrainRequest(depth=2, max_seq_len=128, num_iterations=20, total_batch_size=1024)
    plan = resolve(request, Machine.cpu(1e10), facts)
    (folder / "plan.json").write_text(json.dumps({"format": "picollm-run/1", "plan": plan.to_json()}))
    lines = [{"v": 1, "t": 0.1, "kind": "eval", "step": 0, "bpb": 3.0 + shift}]
    for step in range(1, steps + 1):
        loss = 6.0 - 0.1 * step + shift * step
        lines.append({"v": 1, "t": float(step), "kind": "step", "step": step, "loss": loss, "loss_ema": loss,
                      "dt_ms": 2840.0, "flags": []})  # fmt: skip
    lines.append({"v": 1, "t": 21.0, "kind": "eval", "step": steps, "bpb": 2.0 + shift})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if code is not None:
        end = {"v": 1, "reason": "finished" if code == 0 else "signal", "code": code, "message": None}
        (folder / "exit.json").write_text(json.dumps(end))
    return folder


def test_the_list_names_state_steps_and_validation(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    make(home, "done")
    make(home, "cut", steps=7, code=130)
    make(home, "broken", steps=3, code=5)
    (home / "runs" / "notes").mkdir()  # no run
    code, out, _ = run(capsys, "list")
    assert code == 0
    rows = {line.split()[0]: line for line in out.splitlines()[1:]}
    assert rows.keys() == {"done", "cut", "broken"}
    assert "finished" in rows["done"]
    assert "20/20" in rows["done"]
    assert "2.0000" in rows["done"]
    assert "stopped" in rows["cut"]
    assert "failed (5)" in rows["broken"]
    found = json.loads(run(capsys, "list", "--json")[1])
    assert found["schema"] == "picollm.runs/1"
    assert {entry["name"]: entry["step"] for entry in found["runs"]} == {"done": 20, "cut": 7, "broken": 3}


def test_no_runs_are_answered_with_the_command_that_makes_one(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "list")
    assert code == 0
    assert "picollm quickstart" in out
    assert run(capsys, "watch")[0] == 4
    assert run(capsys, "compare", "a", "b")[0] == 4


def test_files_that_are_torn_or_foreign_do_not_stop_the_list(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    folder = make(home, "torn", code=None)
    (folder / "plan.json").write_text('{"plan": {"depth": 1}}')
    (folder / "metrics.jsonl").write_text('{"kind": "step", "step": 1, "loss": null}\n{"kind": "st')
    (folder / "exit.json").write_text("[")
    code, out, _ = run(capsys, "list")
    assert code == 0
    assert "torn" in out


@pytest.mark.row("K23")
def test_two_runs_are_compared_at_every_step_they_share(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    make(home, "a")
    make(home, "b", shift=1e-5)
    code, out, _ = run(capsys, "compare", "a", "b", "--metric", "loss")
    assert code == 0
    assert "largest difference 0.0002 at step 20, over 20 shared steps" in out
    found = json.loads(run(capsys, "compare", "a", "b", "--metric", "loss", "--json")[1])
    assert found["largest_difference"] == pytest.approx(2e-4)
    assert len(found["points"]) == 20
    assert "bpb: B - A" in run(capsys, "compare", "a", "b")[1]


@pytest.mark.row("K47")
def test_loss_is_not_compared_across_tokenizers(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    make(home, "a")
    make(home, "b", tokenizer="b" * 64)
    code, _, err = run(capsys, "compare", "a", "b", "--metric", "loss")
    assert code == 3
    assert "different tokenizers: loss is not comparable" in err
    assert run(capsys, "compare", "a", "b")[0] == 0  # bits per byte are


@pytest.mark.row("K41")
def test_a_running_run_shows_its_pace_and_when_it_ends(home: Path) -> None:
    folder = make(home, "live", steps=5, code=None)
    found = Run.read(folder)
    line = status(found, changed(found) + 1)
    assert "live running · step 5/20 · loss 5.5000 · val 2.0000 bpb (step 5)" in line
    assert "2.84 s/step · ETA 43 s" in line
    assert "silent" in status(found, changed(found) + 1000)  # killed: nothing was written for a long time


def test_watch_ends_with_the_run(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    make(home, "done")
    code, out, _ = run(capsys, "watch", "done")
    assert code == 0
    assert out.startswith("done finished · step 20/20")
    make(home, "live", code=None)
    assert run(capsys, "watch", "live", "--once")[0] == 0


def test_the_run_that_changed_last_is_meant_when_none_is_named(home: Path) -> None:
    old, new = make(home, "old"), make(home, "new")
    for file in old.iterdir():
        os.utime(file, (1, 1))
    assert find_run(None, home / "runs").path == new
    assert find_run(str(old), home / "runs").name == "old"


def test_long_curves_are_thinned_to_both_ends() -> None:
    assert thinned([1, 2, 3]) == [1, 2, 3]
    picked = thinned(list(range(1000)))
    assert (picked[0], picked[-1], len(picked)) == (0, 999, 12)
