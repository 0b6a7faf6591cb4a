import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from picollm.errors import BusyError, PicoError
from picollm.runtime import durable, failpoint

RACES = 500


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_written_file_holds_exactly_the_new_bytes_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    durable.write(path, b"old and longer")
    durable.write(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == {"a.json"}
    assert path.stat().st_mode & 0o777 == 0o600


def test_json_has_one_form_whatever_the_order_of_keys(tmp_path: Path) -> None:
    durable.write_json(tmp_path / "a", {"b": 1, "a": "ä"})
    durable.write_json(tmp_path / "b", {"a": "ä", "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert json.loads((tmp_path / "a").read_text("utf-8")) == {"a": "ä", "b": 1}
    with pytest.raises(ValueError, match="Out of range float"):
        durable.write_json(tmp_path / "c", float("nan"))


def test_a_failed_write_keeps_the_old_file_and_leaves_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    durable.write(path, b"old")
    monkeypatch.setattr(failpoint, "passages", failpoint.Counter())
    monkeypatch.setenv(failpoint.VARIABLE, "durable.synced=ENOSPC")
    with pytest.raises(PicoError, match="No space left") as caught:
        durable.write(path, b"new")
    assert caught.value.exit_code == 3
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"a"}


def test_a_missing_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(PicoError, match="no-folder"):
        durable.write(tmp_path / "no-folder" / "a", b"")


@pytest.mark.row("C13")
def test_a_second_writer_is_told_the_first_ones_pid(tmp_path: Path) -> None:
    with durable.lock(tmp_path), pytest.raises(BusyError, match=f"process {os.getpid()}"), durable.lock(tmp_path):
        pass
    with durable.lock(tmp_path):
        pass


@pytest.mark.row("S6")
def test_a_killed_owner_frees_the_lock_and_its_temporaries_go(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from picollm.runtime import durable
with durable.lock(Path({str(tmp_path)!r})):
    durable.write(Path({str(tmp_path)!r}) / "a", b"new")
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), failpoint.VARIABLE: "durable.synced=kill"}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == -9
    assert any(durable.TEMPORARY.fullmatch(name) for name in names(tmp_path))
    with durable.lock(tmp_path):
        assert names(tmp_path) == {".lock"}


@pytest.mark.slow
@pytest.mark.row("S6")
def test_of_four_that_want_a_lock_at_once_one_gets_it_and_the_others_name_it(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    race = Path(__file__).with_name("race.py")
    done = subprocess.run([sys.executable, race, tmp_path, str(RACES)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == {"rounds": RACES, "one winner": RACES, "named": 3 * RACES, "named wrongly": 0}
