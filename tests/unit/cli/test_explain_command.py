import json
import subprocess
import sys
from pathlib import Path

import pytest

from picollm.cli.main import main
from picollm.plan.compare import SCHEMA as DIFF
from picollm.plan.explain import SCHEMA as EXPLAIN
from picollm.plan.knobs import KNOBS
from picollm.plan.request import TrainRequest
from picollm.plan.resolve import resolve
from picollm.runtime.machine import Machine

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PICOLLM_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as done:
        main(list(words))
    out, err = capsys.readouterr()
    assert isinstance(done.value.code, int)
    return done.value.code, out, err


@pytest.mark.parametrize("topic", ["warmup-steps", "--warmup-steps", "warmup_steps"])
def test_a_topic_may_be_spelled_as_the_option(capsys: pytest.CaptureFixture[str], topic: str) -> None:
    code, out, _ = run(capsys, "explain", topic, "--gpu", "h100")
    assert code == 0
    assert out.startswith("--warmup-steps\n")
    assert "picollm train --preset tiny --warmup-steps 0" in out
    assert "on h100" in out  # the price of the experiment


@pytest.mark.row("K50")
def test_knobs_of_every_layer_can_be_explained(capsys: pytest.CaptureFixture[str]) -> None:
    for knob in KNOBS[::6]:
        code, out, _ = run(capsys, "explain", knob.name, "--gpu", "h100", "--json")
        assert code == 0
        facts = json.loads(out)
        assert (facts["schema"], facts["knob"], bool(facts["why"])) == (EXPLAIN, knob.name, True)


def test_the_value_is_that_of_the_options_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "explain", "hidden-size", "--depth", "4", "--gpu", "h100")
    assert "256 [rule]" in out


def test_an_unknown_topic_is_answered_with_those_spelled_alike(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "explain", "warmpu-steps")
    assert code == 2
    assert "did you mean warmup-steps" in err


@pytest.mark.parametrize("words", [["explain"], ["explain", "depth", "--defaults"], ["explain", "loss", "--at", "1"],
                                   ["explain", "packing", "--at", "1"], ["explain", "depth", "--at", "x"],
                                   ["explain", "depth", "--at", ","]])  # fmt: skip
def test_a_question_that_makes_no_sense_is_a_usage_error(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    code, out, _ = run(capsys, *words)
    assert (code, out) == (2, "")


def test_values_beside_each_other_keep_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["explain", "depth", "--at", "4,8", "--vocab-size", "4096", "--gpu", "h100", "--json"]
    rows = json.loads(run(capsys, *words)[1])["rows"]
    assert [row["value"] for row in rows] == [4, 8]
    words = [
        "explain",
        "max-steps",
        "--at",
        "10,20",
        "--depth",
        "4",
        "--target-flops",
        "1e17",
        "--gpu",
        "h100",
        "--json",
    ]
    assert [row["value"] for row in json.loads(run(capsys, *words)[1])["rows"]] == [10, 20]


def test_a_strict_diff_refuses_a_warning_for_b(capsys: pytest.CaptureFixture[str]) -> None:
    warned = "--preset tiny --head-dim 16"
    assert run(capsys, "diff", "tiny", warned)[0] == 1
    assert run(capsys, "diff", "--strict", "tiny", warned)[0] == 3


def test_diff_answers_0_for_the_same_and_1_for_another(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "diff", "tiny", "--preset tiny")[0] == 0
    code, out, _ = run(capsys, "diff", "tiny", "tiny --depth 4", "--json")
    assert code == 1
    found = json.loads(out)
    assert found["schema"] == DIFF
    assert found["changed"] == {"depth": {"a": 2, "b": 4}}


def test_diff_reads_files_presets_options_and_runs(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    file = home / "d6.toml"
    file.write_text("[model]\ndepth = 6\n")
    assert run(capsys, "diff", str(file), "--depth 6")[0] == 0
    plan = resolve(TrainRequest(depth=6), Machine.gpus("h100", 1), None)
    run_folder = home / "runs" / "mine"
    run_folder.mkdir(parents=True)
    (run_folder / "plan.json").write_text(json.dumps({"format": "picollm-run/1", "plan": plan.to_json()}))
    assert run(capsys, "diff", "mine", "--layers 6 --gpu h100")[0] == 0
    assert run(capsys, "diff", str(run_folder), "--depth 8 --gpu h100")[0] == 1


def test_diff_says_what_it_could_not_read(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    code, _, err = run(capsys, "diff", "nothing", "tiny")
    assert code == 4
    assert "no run, no file and no preset" in err
    assert run(capsys, "diff", "--dept 4", "tiny")[0] == 2
    broken = home / "runs" / "broken"
    broken.mkdir(parents=True)
    (broken / "plan.json").write_text("{}")
    assert run(capsys, "diff", "broken", "tiny")[0] == 3


def test_warnings_can_be_silenced_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--gpu", "h100", "--depth", "4", "--vocab-size", "65536"]
    assert "W201" in run(capsys, *words)[1]
    code, out, _ = run(capsys, *words, "--quiet-warnings", "w201", "--strict")
    assert (code, "W201" in out) == (0, False)
    assert run(capsys, *words, "--quiet-warnings", "W999")[0] == 2


@pytest.mark.row("K26")
def test_plot_draws_the_rate(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "plan", "--gpu", "h100", "--max-steps", "100", "--warmup-steps", "40", "--plot")[1]
    assert "W402 warm-up is 40 % of the run" in out
    assert "learning rate of the matrices" in out
    assert "up to step 40" in out


def test_help_shows_the_value_that_would_be_used_and_its_origin(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PICOLLM_HEAD_DIM", "64")
    out = run(capsys, "plan", "--layers", "8", "--help")[1]
    assert "8 [flag --layers]; also --layers" in out
    assert "64 [env PICOLLM_HEAD_DIM]" in out
    assert "512 [rule]" in out  # the width that follows
    assert "--depth" in run(capsys, "plan", "--layers", "8", "--depth", "4", "--help")[1]  # nonsense still gets help


@pytest.mark.parametrize("command", ["explain vocab-size --at 512,1024", "explain --defaults", "diff tiny laptop"])
def test_no_answer_needs_torch(tmp_path: Path, command: str) -> None:
    code = f"""
import shlex, sys
from picollm.cli.main import main
try:
    main(shlex.split({command!r}))
except SystemExit as done:
    assert done.code in (0, 1)
assert not {{"torch", "datasets", "pyarrow"}} & set(sys.modules)
"""
    env = {"PYTHONPATH": str(REPOSITORY / "python"), "PICOLLM_HOME": str(tmp_path), "PATH": ""}
    env["PICOLLM_CACHE"] = str(tmp_path)
    subprocess.run([sys.executable, "-c", code], check=True, env=env, stdout=subprocess.DEVNULL)
