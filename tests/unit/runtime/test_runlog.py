import io
import json
from pathlib import Path

import pytest

from picollm.runtime.pace import FIRST_STEPS, Pace
from picollm.runtime.runlog import METRICS, RunLog, open_log, read


def kinds(folder: Path) -> list[tuple[str, int]]:
    return [(line["kind"], line.get("step", 0)) for line in read(folder / METRICS)]


def filled(folder: Path) -> None:
    log = RunLog(folder)
    log.record("run", device="cpu")
    log.record("eval", step=0, bpb=2.0)
    for step in range(1, 5):
        log.record("step", step=step, loss=1.0 / step)
        if step % 2 == 0:
            log.record("eval", step=step, bpb=1.0)
            log.record("save", step=step)
    log.record("stop", step=4, reason="SIGTERM")
    log.close()


def test_a_log_opened_at_a_step_holds_what_an_unbroken_run_had_written_there(tmp_path: Path) -> None:
    filled(tmp_path)
    open_log(tmp_path, 2, screen=None).close()
    assert kinds(tmp_path) == [("run", 0), ("eval", 0), ("step", 1), ("step", 2), ("eval", 2)]


def test_a_log_opened_at_its_end_loses_only_the_stop_and_the_save_to_be_written_again(tmp_path: Path) -> None:
    filled(tmp_path)
    open_log(tmp_path, 4, screen=None).close()
    assert kinds(tmp_path)[-2:] == [("step", 4), ("eval", 4)]
    assert ("save", 2) in kinds(tmp_path)


def test_a_line_torn_by_a_kill_is_dropped(tmp_path: Path) -> None:
    filled(tmp_path)
    path = tmp_path / METRICS
    path.write_bytes(path.read_bytes()[:-20])
    open_log(tmp_path, 9, screen=None).close()
    assert kinds(tmp_path)[-1] == ("save", 4)
    assert path.read_bytes().endswith(b"}\n")


def test_the_clock_of_a_resumed_log_goes_on(tmp_path: Path) -> None:
    filled(tmp_path)
    path = tmp_path / METRICS
    path.write_text(path.read_text().replace('"t": 0.', '"t": 100.'))
    log = open_log(tmp_path, 4, screen=None)
    log.record("step", step=5)
    log.close()
    assert read(path)[-1]["t"] >= 100


def test_a_number_that_is_none_is_null_in_the_file(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.record("step", step=1, loss=float("nan"), grad_norm=float("inf"))
    log.close()
    line = json.loads((tmp_path / METRICS).read_text())
    assert line["loss"] is None
    assert line["grad_norm"] is None


@pytest.mark.row("C15")
def test_a_closed_screen_does_not_stop_the_run(tmp_path: Path) -> None:
    screen = io.StringIO()
    log = RunLog(tmp_path, screen=screen)
    screen.close()
    log.say("hello")
    log.progress(1, "step 1")
    log.record("step", step=1)
    log.close()
    assert kinds(tmp_path) == [("step", 1)]
    assert "hello" in (tmp_path / "train.log").read_text()


@pytest.mark.row("C15")
def test_a_full_disk_is_said_once_and_does_not_stop_the_run(tmp_path: Path) -> None:
    (tmp_path / METRICS).touch()
    screen = io.StringIO()
    log = RunLog(tmp_path, screen=screen)
    full = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    log.files[METRICS] = full.fileno()
    log.record("step", step=1)
    log.record("step", step=2)
    assert screen.getvalue().count("No space left") == 1
    full.close()


def test_without_a_terminal_progress_is_one_plain_line_every_few_steps() -> None:
    screen = io.StringIO()
    log = RunLog(None, screen=screen, every=3)
    for step in range(1, 8):
        log.progress(step, f"step {step}", last=step == 7)
    assert screen.getvalue().split("\n") == ["step 1", "step 3", "step 6", "step 7", ""]


def test_atypical_steps_do_not_count_and_the_rest_gives_the_eta() -> None:
    pace = Pace()
    assert pace.eta(10) is None
    for _ in range(FIRST_STEPS):
        assert pace.warming
        pace.step(9.0, ["warm"])
    assert pace.seconds_per_step == 9.0
    pace.step(2.0, [])
    pace.step(50.0, ["after_eval"])
    pace.spent("eval", 4.0)
    assert pace.seconds_per_step == 2.0
    assert pace.eta(10, evals_left=2) == 28.0


def test_a_run_that_starts_again_starts_with_an_empty_log(tmp_path: Path) -> None:
    filled(tmp_path)
    open_log(tmp_path, None, screen=None).close()
    assert kinds(tmp_path) == []
