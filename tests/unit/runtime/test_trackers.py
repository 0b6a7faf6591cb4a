"""Dashboards beside metrics.jsonl: what they get, and that none of them can stop a training."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from picollm.errors import MissingError, UsageError
from picollm.runtime import trackers
from picollm.runtime.runlog import METRICS, open_log, read
from picollm.runtime.trackers import names, numbers_of, open_trackers

STEP: dict[str, Any] = {"step": 3, "loss": 2.5, "loss_hex": "0x1p+1", "mfu_bf16": None, "flags": ["warm"]}
VAL: dict[str, Any] = {"step": 3, "name": "val", "bpb": 1.25, "set_hash": "00"}


class Kept:
    """A tracker that keeps what it is told, and breaks when asked to."""

    def __init__(self, directory: Path, run: str, facts: Mapping[str, Any], step: int) -> None:
        self.told: list[tuple[int, dict[str, float]]] = []
        self.closed = False

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        if step > 5:
            raise ConnectionError("the network is down")
        self.told.append((step, dict(values)))

    def close(self) -> None:
        self.closed = True


def test_numbers_of_steps_and_validations_get_names_and_all_else_stays_out() -> None:
    assert numbers_of("step", STEP) == {"train/loss": 2.5}
    assert numbers_of("eval", VAL) == {"val/bpb": 1.25}
    assert numbers_of("save", {"step": 3, "bytes": 7}) == {}


@pytest.mark.row("C15")
def test_a_tracker_that_fails_is_said_once_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trackers.TRACKERS, "wandb", Kept)
    log = open_log(tmp_path, None, screen=None)
    log.trackers = open_trackers("wandb", tmp_path, {}, 0)
    kept = log.trackers["wandb"]
    assert isinstance(kept, Kept)
    for step in (5, 6, 7):
        log.record("step", **{**STEP, "step": step})
    log.close()
    assert kept.told == [(5, {"train/loss": 2.5})]
    assert [line["step"] for line in read(tmp_path / METRICS)] == [5, 6, 7]
    assert (tmp_path / "train.log").read_text().count("--log wandb failed (ConnectionError: the network is down)") == 1


def test_an_unknown_tracker_is_a_usage_error_and_a_missing_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert names("wandb, tensorboard,wandb") == ["wandb", "tensorboard"]
    assert names(None) == []
    with pytest.raises(UsageError, match="--log mlflow"):
        names("mlflow")

    def absent(*given: object) -> trackers.Tracker:
        raise ModuleNotFoundError("No module named 'trackio'")

    monkeypatch.setitem(trackers.TRACKERS, "trackio", absent)
    with pytest.raises(MissingError, match="No module named 'trackio'") as missing:
        open_trackers("trackio", tmp_path, {}, 0)
    assert missing.value.hint == "pip install 'picollm-train[trackio]', or leave --log out"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of other people's packages
def test_tensorboard_files_read_back_what_was_logged(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    log = open_log(tmp_path, None, screen=None)
    log.trackers = open_trackers("tensorboard", tmp_path, {}, 0)
    for step in (1, 2, 3):
        log.record("step", step=step, loss=4.0 / step)
    log.record("eval", **VAL)
    log.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(point.step, point.value) for point in found.Scalars("train/loss")] == [
        (1, 4.0),
        (2, 2.0),
        (3, pytest.approx(4 / 3)),
    ]
    assert [point.value for point in found.Scalars("val/bpb")] == [1.25]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_offline_keeps_a_run_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    log = open_log(tmp_path, None, screen=None)
    log.trackers = open_trackers("wandb", tmp_path, {"depth": 2}, 0)
    log.record("step", **STEP)
    log.close()
    assert json.loads((tmp_path / METRICS).read_text())["loss"] == 2.5
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
