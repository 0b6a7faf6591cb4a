"""The model that is meant when nothing is said."""

import json
import os
from pathlib import Path

import pytest

from picollm.cli.models import find_model, finished
from picollm.errors import MissingError


def run(runs: Path, name: str, when: int, code: int | None) -> Path:
    folder = runs / name / "checkpoints" / "step-0000000010"
    folder.mkdir(parents=True)
    os.utime(folder, (when, when))
    if code is not None:
        path = runs / name / "exit.json"
        path.write_text(json.dumps({"code": code, "reason": "finished" if code == 0 else "SIGTERM"}))
        os.utime(path, (when, when))
    return runs / name


def test_the_run_that_finished_last_is_meant(tmp_path: Path) -> None:
    run(tmp_path, "late-but-stopped", 400, 143)
    run(tmp_path, "still-going", 500, None)
    run(tmp_path, "early", 100, 0)
    last = run(tmp_path, "last", 300, 0)
    (tmp_path / "empty").mkdir()
    assert find_model(None, tmp_path) == last


def test_without_a_finished_run_the_newest_checkpoint_is_meant(tmp_path: Path) -> None:
    run(tmp_path, "old", 100, None)
    new = run(tmp_path, "new", 200, 143)
    assert find_model(None, tmp_path) == new


def test_a_name_or_a_path_is_taken_as_said(tmp_path: Path) -> None:
    folder = run(tmp_path / "runs", "a", 1, None)
    assert find_model("a", tmp_path / "runs") == folder
    assert find_model(str(folder), tmp_path) == folder


def test_no_model_is_an_error_that_names_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(MissingError) as none:
        find_model(None, tmp_path / "absent")
    assert none.value.hint is not None
    run(tmp_path, "a", 1, None)
    with pytest.raises(MissingError, match="are: a"):
        find_model("b", tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"code": "0"}', '{"code": 0, "reason": "stop-after"}', "\x00"])
def test_a_damaged_exit_record_is_no_finish(tmp_path: Path, text: str) -> None:
    (tmp_path / "exit.json").write_text(text)
    assert finished(tmp_path) is None
