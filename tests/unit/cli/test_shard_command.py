"""`picollm shard` from outside: exit codes, next steps, JSON."""

import json
from pathlib import Path

import pytest
from tests.unit.shards.conftest import texts, write_jsonl

from picollm.cli.main import main
from picollm.tok.train import train_on_texts

Ran = tuple[int, str, str]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home that is also the current folder, with `data/x.jsonl`."""
    monkeypatch.setenv("PICOLLM_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "data" / "x.jsonl", texts(300))
    return tmp_path


@pytest.fixture
def with_tokenizer(home: Path) -> Path:
    train_on_texts(texts(50), 300).save(home / "tokenizers" / "tiny-300")
    return home


def run(capsys: pytest.CaptureFixture[str], *args: str) -> Ran:
    with pytest.raises(SystemExit) as left:
        main(["shard", *args])
    said = capsys.readouterr()
    assert isinstance(left.value.code, int)
    return left.value.code, said.out, said.err


def test_without_a_tokenizer_the_command_that_makes_one_comes_first(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for source in ("fineweb-edu", "data", "no-such-thing"):
        code, _, err = run(capsys, source)
        assert (code, "picollm tok train --vocab-size 65536\n" in err) == (4, True), err
    assert not (home / "shards").exists()


def test_fineweb_edu_names_the_line_that_works_offline(
    with_tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "fineweb-edu")
    assert (code, "picollm tok train --vocab-size 65536 --dataset-name stdlib" in err) == (4, True), err


def test_shard_source_is_shard_build_source(with_tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "data")
    assert code == 0, err
    assert "300 documents" in out
    assert "tiny-300" in err
    for again in (["build", "data"], ["--dataset-name", "data"], ["data", "--dataset-name", "data"]):
        assert run(capsys, *again)[1] == out
    assert (with_tokenizer / "shards" / "data" / "manifest.json").exists()


def test_info_and_verify_as_text_and_as_json(with_tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "data", "--val-ppm", "100000")
    assert "2 shards OK" in run(capsys, "verify")[1]
    code, out, _ = run(capsys, "verify", "data", "--json")
    assert (code, json.loads(out)["schema"]) == (0, "picollm.shard-verify/1")
    assert "fingerprint" in run(capsys, "info", "shards/data")[1]
    assert json.loads(run(capsys, "info", "--json")[1])["schema"] == "picollm.shard-info/1"
    path = with_tokenizer / "shards" / "data" / "train_000000.bin"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-2] + bytes([data[-2] ^ 1, data[-1]]))
    code, _, err = run(capsys, "verify")
    assert (code, "train_000000.bin" in err) == (3, True)


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["data", "--dataset-name", "other"], 2, "SOURCE is data"),
        (["build"], 2, "no SOURCE"),
        (["data", "--text-column", "foo"], 2, "columns: id (number), text (string)"),
        (["data", "--val-ppm", "2000000"], 2, "--val-ppm"),
        (["data", "--dataset-split", "train"], 2, "--dataset-split"),
        (["data", "--tokenizer", "nobody"], 4, "nobody"),
        (["./empty"], 4, "no text files"),
        (["cut.parquet"], 3, "cut.parquet"),
    ],
)
def test_a_mistake_has_its_exit_code_and_leaves_no_set(
    args: list[str], code: int, says: str, with_tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (with_tokenizer / "empty").mkdir()
    (with_tokenizer / "cut.parquet").write_bytes(b"PAR1")
    found, _, err = run(capsys, *args)
    assert (found, says in err) == (code, True), err
    assert not list(with_tokenizer.glob("shards/*/manifest.json"))


def test_another_tokenizer_needs_another_folder(with_tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "data")[0] == 0
    train_on_texts(texts(50), 280).save(with_tokenizer / "tokenizers" / "tiny-280")
    code, _, err = run(capsys, "data", "--tokenizer", "tiny-280")
    assert (code, "--out DIR" in err) == (3, True), err
    assert run(capsys, "data", "--tokenizer", "tiny-280", "--out", "other")[0] == 0
