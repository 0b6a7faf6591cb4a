import hashlib
import io
import json
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from picollm.ckpt.store import load_model
from picollm.errors import (
    BusyError,
    CheckError,
    CheckpointError,
    MissingError,
    PlanMismatch,
    StoppedError,
    TokenizerMismatch,
    UsageError,
)
from picollm.layout import Layout
from picollm.plan.request import Interval, TrainRequest
from picollm.runtime import durable, failpoint
from picollm.runtime.runlog import METRICS, TIME_FIELDS, read
from picollm.train.run import run_training

SMALL: dict[str, Any] = {"depth": 2, "hidden_size": 32, "head_dim": 16, "max_seq_len": 32, "num_iterations": 8,
                         "total_batch_size": 256, "device_batch_size": 4, "learning_rate": 0.5,
                         "save_every": Interval(4, "steps"), "eval_every": 4, "val_tokens": 1024, "device": "cpu",
                         "peak_flops": 1e10, "workers": 1}  # fmt: skip


def asked(**said: Any) -> TrainRequest:
    return TrainRequest(**{**SMALL, **said})


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return dict(load_model(directory).model.named_parameters())


def timeless(directory: Path, *kinds: str) -> list[dict[str, Any]]:
    lines = [line for line in read(directory / METRICS) if line["kind"] in kinds]
    return [{key: value for key, value in line.items() if key not in TIME_FIELDS} for line in lines]


@pytest.fixture(scope="module")
def finished(home: Layout) -> Path:
    return run_training(asked(name="finished"), layout=home, screen=None)


def test_a_run_leaves_its_plan_its_log_its_verdict_and_a_model_that_loads(home: Layout, finished: Path) -> None:
    assert finished == home.runs / "finished"
    names = {path.name for path in finished.iterdir()}
    assert {"plan.json", "config.toml", "metrics.jsonl", "train.log", "exit.json", "best.json", "checkpoints"} <= names
    assert "attention, whole rows: sdpa (the only one here; fa3: needs CUDA" in (finished / "train.log").read_text()
    verdict = json.loads((finished / "exit.json").read_text())
    assert (verdict["code"], verdict["reason"], verdict["step"]) == (0, "finished", 8)
    assert (finished / verdict["checkpoint"]).is_dir()
    model, config, tokenizer, meta = load_model(finished)
    assert (meta.step, meta.stage, config.vocab_size, tokenizer.vocab_size) == (8, "base", 300, 300)
    assert model.logits(torch.tensor([tokenizer.encode("ka")])).isfinite().all()
    assert finished.stat().st_mode & 0o777 == 0o700
    (first, *_) = read(finished / METRICS)
    assert first["kind"] == "run"
    assert {"plan", "versions", "device", "ranks", "threads", "peak_flops", "shards", "tokenizer"} <= set(first)


def test_validation_reads_the_same_rows_each_time(finished: Path) -> None:
    evals = timeless(finished, "eval")
    assert [line["step"] for line in evals] == [0, 4, 8]
    assert len({line["set_hash"] for line in evals}) == 1
    assert evals[-1]["bpb"] < evals[0]["bpb"]


def test_a_finished_run_says_so_and_does_nothing(home: Layout, finished: Path) -> None:
    before = (finished / METRICS).read_bytes()
    screen = io.StringIO()
    assert run_training(asked(name="finished"), layout=home, screen=screen) == finished
    assert "finished, 8 steps" in screen.getvalue()
    assert (finished / METRICS).read_bytes() == before


@pytest.mark.row("C1")
def test_the_same_command_again_goes_on_and_ends_in_the_same_bits(home: Layout, finished: Path) -> None:
    cut = run_training(asked(name="cut", stop_after=Interval(3, "steps")), layout=home, screen=None)
    assert json.loads((cut / "exit.json").read_text())["reason"] == "stop-after"
    run_training(asked(name="cut"), layout=home, screen=None)
    assert timeless(cut, "step", "eval") == timeless(finished, "step", "eval")
    ours, theirs = weights(cut), weights(finished)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_is_resumed_by_its_name_alone(home: Layout, finished: Path) -> None:
    run_training(asked(name="named", stop_after=Interval(5, "steps")), layout=home, screen=None)
    again = TrainRequest(resume="named", device="cpu", peak_flops=1e10, stop_after=Interval(99, "steps"))
    directory = run_training(again, layout=home, screen=None)
    assert timeless(directory, "step", "eval") == timeless(finished, "step", "eval")


@pytest.mark.row("C11")
def test_the_batch_per_device_may_change_on_resume_and_the_learning_rate_may_not(home: Layout) -> None:
    directory = run_training(asked(name="changed", stop_after=Interval(2, "steps")), layout=home, screen=None)
    with pytest.raises(PlanMismatch, match=r"optim\.muon") as caught:
        run_training(asked(name="changed", learning_rate=0.4), layout=home, screen=None)
    assert caught.value.exit_code == 2
    run_training(asked(name="changed", device_batch_size=8), layout=home, screen=None)
    assert json.loads((directory / "exit.json").read_text())["reason"] == "finished"


@pytest.mark.row("C11")
@pytest.mark.parametrize(
    ("edit", "named"),
    [
        ({"depth": 4}, "model.depth"), ({"hidden_size": 64}, "model.width"), ({"head_dim": 8}, "model.head_dim"),
        ({"max_seq_len": 16}, "model.seq_len"), ({"window_pattern": "L"}, "model.window"), ({"dtype": "bf16"}, "dtype"),
        ({"value_embeds": False}, "model.value_embeds"), ({"backout": False}, "model.backout"), ({"seed": 7}, "seed"),
        ({"smear": True}, "model.smear"), ({"total_batch_size": 512}, "rows_per_step"),
        ({"num_iterations": 9}, "steps"),
        ({"packing": "concat"}, "packing"), ({"learning_rate": 0.4}, "optim.muon"), ({"weight_decay": 0.5}, "schedule"),
        ({"warmup_steps": 3}, "schedule"), ({"warmdown_ratio": 0.1}, "schedule"), ({"val_tokens": 512}, "val_tokens"),
    ],
)  # fmt: skip
def test_any_edit_that_changes_the_numbers_is_refused_by_name(
    home: Layout, finished: Path, edit: dict[str, Any], named: str
) -> None:
    before = (finished / "plan.json").read_bytes()
    with pytest.raises(PlanMismatch, match=named.replace(".", r"\.")):
        run_training(asked(name="finished", **edit), layout=home, screen=None)
    assert (finished / "plan.json").read_bytes() == before


def test_the_same_request_has_the_same_name_and_never_starts_twice(home: Layout) -> None:
    cap = Interval(1, "steps")
    first = run_training(asked(num_iterations=5, stop_after=cap), layout=home, screen=None)
    second = run_training(asked(num_iterations=5, device_batch_size=2), layout=home, screen=None)
    assert first == second
    assert first.name.startswith("train-")


def test_resume_never_refuses_a_run_that_exists(home: Layout, finished: Path) -> None:
    with pytest.raises(UsageError, match="exists"):
        run_training(asked(name="finished", resume="never"), layout=home, screen=None)
    with pytest.raises(MissingError, match="no run 'nowhere'"):
        run_training(TrainRequest(resume="nowhere", device="cpu", peak_flops=1e10), layout=home, screen=None)


@pytest.mark.row("C13")
def test_a_second_trainer_of_one_run_is_refused(home: Layout) -> None:
    run_training(asked(name="busy", stop_after=Interval(1, "steps")), layout=home, screen=None)
    with durable.lock(home.runs / "busy"), pytest.raises(BusyError, match="in use by process"):
        run_training(asked(name="busy"), layout=home, screen=None)


def test_without_shards_nothing_is_created(tmp_path: Path) -> None:
    with pytest.raises(MissingError) as caught:
        run_training(asked(), layout=Layout(tmp_path), screen=None)
    assert caught.value.exit_code == 4
    assert caught.value.hint is not None
    assert "picollm shard" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_tokenizer_is_refused_with_both_hashes(home: Layout, tmp_path: Path) -> None:
    shutil.copytree(home.tokenizers / "tiny", tmp_path / "foreign")
    file = tmp_path / "foreign" / "tokenizer.json"
    file.write_bytes(file.read_bytes() + b"\n")
    with pytest.raises(TokenizerMismatch) as caught:
        run_training(asked(tokenizer=str(tmp_path / "foreign")), layout=home, screen=None)
    assert caught.value.exit_code == 3
    assert not (home.runs / "foreign").exists()


def test_a_vocabulary_that_is_not_the_shards_is_a_usage_error(home: Layout) -> None:
    with pytest.raises(UsageError, match="300"):
        run_training(asked(vocab_size=512), layout=home, screen=None)


def test_a_plan_file_that_is_not_ours_stops_the_run(home: Layout) -> None:
    directory = home.runs / "foreign-plan"
    directory.mkdir(parents=True)
    (directory / "plan.json").write_text("{}")
    with pytest.raises(CheckError, match="not a plan"):
        run_training(asked(name="foreign-plan"), layout=home, screen=None)


@pytest.mark.row("C3")
def test_a_damaged_checkpoint_is_said_and_the_one_before_it_taken(home: Layout, finished: Path) -> None:
    directory = home.runs / "damaged"
    shutil.copytree(finished, directory)
    plan = (directory / "plan.json").read_text().replace('"name": "finished"', '"name": "damaged"')
    (directory / "plan.json").write_text(plan)
    broken = directory / "checkpoints" / "step-0000000008" / "model.safetensors"
    broken.write_bytes(broken.read_bytes()[:-1])
    assert load_model(directory).meta.step == 4
    screen = io.StringIO()
    run_training(asked(name="damaged"), layout=home, screen=screen)
    assert "checkpoint passed over" in screen.getvalue()
    assert "goes on at step 4" in screen.getvalue()
    assert timeless(directory, "step", "eval") == timeless(finished, "step", "eval")
    ours, theirs = weights(directory), weights(finished)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.row("A1")
def test_a_model_whose_tensors_are_not_its_config_s_is_refused_before_loading(finished: Path, tmp_path: Path) -> None:
    source = finished / "checkpoints" / "step-0000000008"
    target = tmp_path / source.name
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    config |= {"depth": 3, "windows": [None] * 3}
    (target / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"sha256|bytes"):
        load_model(target)
    forge(target)
    with pytest.raises(CheckpointError, match="missing or unknown"):
        load_model(target)


def forge(checkpoint: Path) -> None:
    """Make the manifest agree with changed files, as a stranger could."""
    manifest = json.loads((checkpoint / "MANIFEST.json").read_text())
    manifest.pop("sha256")
    for name, entry in manifest["files"].items():
        entry["size"] = (checkpoint / name).stat().st_size
        entry["sha256"] = hashlib.sha256((checkpoint / name).read_bytes()).hexdigest()
    own = hashlib.sha256(durable.to_json(manifest)).hexdigest()
    durable.write_json(checkpoint / "MANIFEST.json", manifest | {"sha256": own})


@pytest.mark.row("A2")
def test_a_pickle_under_a_safetensors_name_is_refused_by_content(finished: Path, tmp_path: Path) -> None:
    target = tmp_path / "step-0000000008"
    shutil.copytree(finished / "checkpoints" / target.name, target)
    (target / "model.safetensors").write_bytes(b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94.")
    forge(target)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_model(target)


@pytest.mark.row("C4")
def test_a_signal_during_validation_saves_and_validates_after_the_resume(
    home: Layout, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def asked_to_stop(stop: Any) -> bool:
        nonlocal looks
        looks += 1
        if looks == 9:  # one look per validation step at 0, one per training step 1 to 4, then inside validation
            stop.signal = signal.SIGINT
        return stop.signal is not None

    monkeypatch.setattr("picollm.runtime.signals.Stop.asked", asked_to_stop)
    with pytest.raises(StoppedError, match="SIGINT: saved step") as caught:
        run_training(asked(name="signal"), layout=home, screen=None)
    assert caught.value.exit_code == 130
    directory = home.runs / "signal"
    assert json.loads((directory / "exit.json").read_text())["code"] == 130
    monkeypatch.undo()
    run_training(asked(name="signal"), layout=home, screen=None)
    assert timeless(directory, "step", "eval") == timeless(finished, "step", "eval")


@pytest.mark.row("C4")
@pytest.mark.parametrize(
    "place", ["train.opening", "train.validating", "train.waiting@2", "train.step@3", "ckpt.begun", "ckpt.renamed"]
)
def test_sigterm_in_any_phase_leaves_a_checkpoint_and_the_run_ends_in_the_same_bits(
    home: Layout, finished: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"in-{place.replace('.', '-').replace('@', '-')}"
    where, _, passage = place.partition("@")
    monkeypatch.setattr(failpoint, "passages", Counter())
    monkeypatch.setenv(failpoint.VARIABLE, f"{where}=term@{passage or 1}")
    with pytest.raises(StoppedError) as stopped:
        run_training(asked(name=name), layout=home, screen=None)
    monkeypatch.delenv(failpoint.VARIABLE)
    assert stopped.value.exit_code == 143
    verdict = json.loads((home.runs / name / "exit.json").read_text())
    assert (verdict["code"], verdict["reason"]) == (143, "SIGTERM")
    assert (home.runs / name / verdict["checkpoint"]).is_dir()
    whole, again = weights(finished), weights(run_training(asked(name=name), layout=home, screen=None))
    assert all(torch.equal(whole[key], again[key]) for key in whole)


@pytest.mark.row("K19")
def test_a_run_with_windows_takes_the_kernel_for_them_and_resumes_to_the_same_bits(home: Layout) -> None:
    said: dict[str, Any] = {"max_seq_len": 256, "window_pattern": "SL", "total_batch_size": 512}
    whole = run_training(asked(name="windows", **said), layout=home, screen=None)
    assert "attention, windows: blocks (a CPU's: no T x T mask)" in (whole / "train.log").read_text()
    run_training(asked(name="windows-cut", stop_after=Interval(3, "steps"), **said), layout=home, screen=None)
    again = weights(run_training(asked(name="windows-cut", **said), layout=home, screen=None))
    assert all(torch.equal(weight, again[key]) for key, weight in weights(whole).items())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside torch's compiler
@pytest.mark.row("K38")
def test_a_compiled_run_has_the_same_curve(home: Layout) -> None:
    said = {"learning_rate": 0.02}  # at 25 times that, eight steps make 2e-4 of a rounding
    found = run_training(asked(name="compiled", compile="on", **said), layout=home, screen=None)
    eager = run_training(asked(name="eager", **said), layout=home, screen=None)
    assert "compiled in" in (found / "train.log").read_text()
    for mine, theirs in zip(timeless(found, "step"), timeless(eager, "step"), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside torch's compiler
@pytest.mark.row("C4")
def test_sigterm_while_compiling_leaves_a_checkpoint_to_go_on_from(
    home: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failpoint, "passages", Counter())
    monkeypatch.setenv(failpoint.VARIABLE, "train.compiling=term")
    with pytest.raises(StoppedError, match="SIGTERM: saved step 0 of 8") as stopped:
        run_training(asked(name="in-compiling", compile="on"), layout=home, screen=None)
    assert stopped.value.exit_code == 143
    monkeypatch.delenv(failpoint.VARIABLE)
    again = run_training(asked(name="in-compiling", compile="on"), layout=home, screen=None)
    assert json.loads((again / "exit.json").read_text())["step"] == 8


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside torch's compiler
@pytest.mark.row("K38")
def test_where_compiling_fails_the_run_goes_on_eagerly_and_says_why(
    home: Layout, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: object, **named: object) -> None:
        raise OSError("no such compiler")

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", broken)
    torch._dynamo.reset()
    found = run_training(asked(name="not-compiled", compile="on"), layout=home, screen=None)
    said = (found / "train.log").read_text()
    assert "W304 torch.compile failed" in said
    assert "no such compiler" in said
    whole, again = weights(finished), weights(found)
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_minutes_become_steps_by_measuring_and_stay_on_resume(home: Layout) -> None:
    said = {name: value for name, value in SMALL.items() if name != "num_iterations"}
    request = TrainRequest(**said, name="minutes", max_minutes=0.02, stop_after=Interval(2, "steps"), max_epochs=1e6)
    directory = run_training(request, layout=home, screen=None)
    plan = json.loads((directory / "plan.json").read_text())["plan"]
    assert plan["estimate"]["measured"]
    assert plan["steps"] >= 1
    again = run_training(request, layout=home, screen=None)
    assert json.loads((again / "plan.json").read_text())["plan"]["steps"] == plan["steps"]
