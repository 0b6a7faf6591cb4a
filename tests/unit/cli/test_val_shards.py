"""Which rows a model may be judged on: never trained ones, and a test split only at the end."""

import json
import shutil
from pathlib import Path

import pytest
from tests.unit.cli.test_train_command import BATCH, place, train

from picollm.cli.main import main
from picollm.corpus.source import open_source
from picollm.layout import Layout
from picollm.runtime.runlog import METRICS, read
from picollm.shards.build import build

__all__ = ["place"]
ONE_STEP = ("--num-iterations", "1", *BATCH)


@pytest.fixture(scope="module")
def other(home: Layout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of other documents, none of them kept for validation: all of them are."""
    return made(home, tmp_path_factory.mktemp("other"), 20)


def made(home: Layout, folder: Path, count: int, ppm: int = 0) -> Path:
    (folder / "text").mkdir()
    for number in range(count):
        (folder / "text" / f"{number}.txt").write_text(f"kana lovik {number} tust. " * 40)
    build(open_source(str(folder / "text")), home.tokenizers / "tiny", folder / "set", val_ppm=ppm, workers=1)
    return folder / "set"


@pytest.fixture
def test_split(other: Path, tmp_path: Path) -> Path:
    """The same set, its manifest saying that it was made from a test split."""
    copy = tmp_path / "of-test"
    shutil.copytree(other, copy)
    for path in (copy / "manifest.json", *(copy / "manifests").glob("*.json")):
        value = json.loads(path.read_text())
        value["source"]["split"] = "test"
        path.chmod(0o644)
        path.write_text(json.dumps(value))
    return copy


def evaluate(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as done:
        main(["eval", *words])
    said = capsys.readouterr()
    assert isinstance(done.value.code, int)
    return done.value.code, said.out, said.err


@pytest.mark.row("K5")
def test_validation_on_what_is_trained_on_is_refused(home: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    train("--val-shards", str(home.shards / "tiny" / "train_000000.bin"), "--name", "cheat", *ONE_STEP, code=2)
    assert "validation shards overlap training shards" in capsys.readouterr().err
    assert not (home.runs / "cheat").exists()
    train("--val-shards", str(home.shards / "tiny"), "--name", "its-own", *ONE_STEP)


@pytest.mark.row("K5")
def test_validation_rows_come_from_the_set_that_is_named(
    home: Layout, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train("--val-shards", str(other), "--name", "elsewhere", *ONE_STEP)
    train("--name", "at-home", *ONE_STEP)
    sets = [{line["set_hash"] for line in read(home.runs / name / METRICS) if line["kind"] == "eval"}
            for name in ("elsewhere", "at-home")]  # fmt: skip
    assert len(sets[0]) == len(sets[1]) == 1
    assert sets[0] != sets[1]
    code, out, _ = evaluate(capsys, "at-home", "--val-shards", str(other))
    assert code == 0
    assert "of set" in out


@pytest.mark.row("K5")
def test_a_test_split_is_read_by_final_alone(
    home: Layout, test_split: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train("--name", "judged", *ONE_STEP)
    train("--val-shards", str(test_split), "--name", "x", *ONE_STEP, code=2)
    train("--shards", str(test_split), "--name", "x", *ONE_STEP, code=2)
    assert "which is for the end" in capsys.readouterr().err
    code, _, err = evaluate(capsys, "judged", "--val-shards", str(test_split))
    assert (code, "--final" in err) == (2, True)
    code, out, _ = evaluate(capsys, "judged", "--val-shards", str(test_split), "--final")
    assert (code, "bits per byte" in out) == (0, True)
    assert (home.runs / "judged" / "evals" / "final.json").is_file()
    code, _, err = evaluate(capsys, "judged", "--final")
    assert (code, "none is named" in err) == (2, True)


def test_a_run_is_examined_from_any_folder(
    home: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run wrote its shards' path down as it was typed, relative to where it was started."""
    monkeypatch.chdir(home.root)
    monkeypatch.delenv("PICOLLM_HOME")
    train("--shards", "shards/tiny", "--name", "moved", *ONE_STEP)
    monkeypatch.chdir(tmp_path)
    code, out, err = evaluate(capsys, str(home.runs / "moved"))
    assert (code, "bits per byte" in out) == (0, True), err
