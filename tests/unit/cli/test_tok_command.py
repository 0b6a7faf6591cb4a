"""`picollm tok` as people and scripts call it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from picollm.cli import tok_filters
from picollm.cli.main import cli
from picollm.errors import CheckError, CorpusTooSmallError, MissingError, PicoError, UsageError
from picollm.layout import Layout
from picollm.tok.tokenizer import Tokenizer
from picollm.tok.train import train_on_texts

SENTENCES = "The cat sat on the mat. It's 2024, naïve 🙂 and all the cats sat there.\n" * 3


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setenv("PICOLLM_HOME", str(tmp_path / "home"))
    corpus = tmp_path / "cats"
    corpus.mkdir()
    for i in range(40):
        (corpus / f"{i:02}.txt").write_text(f"{i} {SENTENCES} {'xyzw'[i % 4] * i}", encoding="utf-8")
    return Layout(tmp_path / "home")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    train_on_texts([SENTENCES], 290).save(folder)
    return folder


def run(*args: str | Path, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(cli, ["tok", *map(str, args)], input=stdin, catch_exceptions=True)


def failure(result: Result) -> PicoError:
    assert isinstance(result.exception, PicoError), result.output
    return result.exception


@pytest.mark.row("K9")
def test_a_training_says_what_the_vocabulary_is_made_of_and_leaves_three_files(home: Layout, tmp_path: Path) -> None:
    result = run("train", tmp_path / "cats", "--vocab-size", "300")
    assert result.exit_code == 0, result.output
    assert "300 tokens = 256 bytes + 35 merges + 9 specials; max id 299 (fits uint16)\n" in result.stdout
    folder = home.tokenizers / "cats-300"
    assert {"tokenizer.json", "tokenizer_config.json", "manifest.json"} <= {path.name for path in folder.iterdir()}
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert manifest["counts"]["documents"] <= 40
    assert manifest["corpus"]["files"][0]["sha256"]
    assert Tokenizer.load(folder).fingerprint == manifest["fingerprint"]


def test_the_same_training_again_is_already_there_and_another_one_is_refused(home: Layout, tmp_path: Path) -> None:
    train = ("train", tmp_path / "cats", "--vocab-size", "280")
    assert run(*train).exit_code == 0
    before = (home.tokenizers / "cats-280" / "tokenizer.json").stat().st_mtime_ns
    again = run(*train, "--workers", "2")
    assert again.exit_code == 0
    assert "already there and the same" in again.stdout
    assert (home.tokenizers / "cats-280" / "tokenizer.json").stat().st_mtime_ns == before
    other = failure(run(*train, "--ties", "huggingface"))
    assert isinstance(other, CheckError)
    assert "ties" in other.message
    assert "--out" in str(other.hint)


def test_a_manifest_from_before_an_option_means_its_default(home: Layout, tmp_path: Path) -> None:
    train = ("train", tmp_path / "cats", "--vocab-size", "280")
    assert run(*train).exit_code == 0
    path = home.tokenizers / "cats-280" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    del manifest["max_ram"]
    path.chmod(0o644)
    path.write_text(json.dumps(manifest))
    assert "already there and the same" in run(*train).stdout
    assert "max_ram" in failure(run(*train, "--max-ram", "1G")).message


def test_the_number_of_workers_changes_nothing(home: Layout, tmp_path: Path) -> None:
    prints = set()
    for workers in ("1", "2", "4"):
        out = tmp_path / workers
        result = run("train", tmp_path / "cats", "--vocab-size", "290", "--workers", workers, "--out", out)
        assert result.exit_code == 0, result.output
        prints.add(Tokenizer.load(out).fingerprint)
    assert len(prints) == 1


@pytest.mark.row("K9")
def test_a_corpus_too_small_says_how_far_it_got_and_writes_nothing(home: Layout, tmp_path: Path) -> None:
    error = failure(run("train", tmp_path / "cats", "--vocab-size", "5000"))
    assert isinstance(error, CorpusTooSmallError)
    assert error.exit_code == 3
    assert "5000 were asked for" in error.message
    assert not home.tokenizers.exists()


@pytest.mark.parametrize("size", ["65537", "264", "0"])
def test_a_vocabulary_that_cannot_be_is_a_usage_error(home: Layout, tmp_path: Path, size: str) -> None:
    error = failure(run("train", tmp_path / "cats", "--vocab-size", size))
    assert isinstance(error, UsageError)
    assert error.exit_code == 2


def test_the_default_corpus_needs_the_hub_and_names_the_offline_line(home: Layout) -> None:
    error = failure(run("train", "--vocab-size", "65536"))
    assert isinstance(error, MissingError)
    assert error.exit_code == 4
    assert error.hint == "picollm tok train --vocab-size 65536 --dataset-name stdlib"


def test_two_different_sources_are_a_usage_error(home: Layout) -> None:
    assert isinstance(failure(run("train", "stdlib", "--dataset-name", "other")), UsageError)


def test_encode_and_decode_are_each_others_inverse_on_any_bytes(home: Layout, tmp_path: Path) -> None:
    assert run("train", tmp_path / "cats", "--vocab-size", "300").exit_code == 0
    data = SENTENCES.encode() + b"\xff\xfe<|bos|>\r\n\0"
    encoded = run("encode", stdin=data)
    assert encoded.exit_code == 0
    assert "tokenizer" in encoded.stderr
    coder = Tokenizer.load(home.tokenizers / "cats-300")
    assert list(map(int, encoded.stdout.split())) == coder.encode(data)
    assert run("decode", "-t", "cats-300", stdin=encoded.stdout_bytes).stdout_bytes == data
    as_json = run("encode", "--json", stdin=data)
    assert json.loads(as_json.stdout)["tokens"] == len(coder.encode(data))
    assert run("decode", stdin=as_json.stdout_bytes).stdout_bytes == data
    assert json.loads(run("decode", "--json", stdin=b"72 105").stdout)["text"] == "Hi"


def test_a_filter_says_what_the_whole_says_however_the_text_comes(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tok_filters, "CHUNK", 64)
    coder = Tokenizer.load(tiny_folder)
    for data in (
        SENTENCES.encode() * 20,
        "日本語、テキスト。🙂".encode() * 60,
        b"a" * 5000,
        b"\xff\xe3\x81 x" * 300,
        b"",
    ):
        encoded = run("encode", "-t", tiny_folder, stdin=data).stdout_bytes
        assert list(map(int, encoded.split())) == coder.encode(data)
        assert run("decode", "-t", tiny_folder, stdin=encoded).stdout_bytes == data
        told = json.loads(run("encode", "--json", "-t", tiny_folder, stdin=data).stdout)
        assert (told["ids"], told["bytes"], told["tokens"]) == (coder.encode(data), len(data), len(coder.encode(data)))
        text = json.loads(run("decode", "--json", "-t", tiny_folder, stdin=encoded).stdout)
        assert (text["text"], text["bytes"]) == (data.decode(errors="replace"), len(data))


def test_a_filter_shows_no_half_of_a_character() -> None:
    for text in ("é", "日", "🙂", "a日b"):
        data = text.encode()
        for cut in range(len(data) + 1):
            data[: tok_filters.whole(data[:cut])].decode()
    assert [tok_filters.whole(bad) for bad in (b"\xff", b"\x80\x80\x80\x80", b"a\x80", b"")] == [1, 4, 2, 0]


@pytest.mark.row("K9")
def test_a_dry_run_tells_time_and_memory_and_leaves_nothing(home: Layout, tmp_path: Path) -> None:
    result = run("train", tmp_path / "cats", "--vocab-size", "300", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "sampled 1 of them" in result.stdout
    assert re.search(r"about [\d.]+ s on \d+ threads: [\d.]+ s to read and count", result.stdout)
    assert re.search(r"about \d+ distinct pieces, \d+ MB of memory beside", result.stdout)
    assert not home.tokenizers.exists()


@pytest.mark.parametrize(
    "said", [b"1 two", b"{}", b'{"ids": "x"}', b'{"ids": [-1]}', b"99999999999999999999", b"1" * 50]
)
def test_what_are_no_ids_is_a_usage_error(home: Layout, tiny_folder: Path, said: bytes) -> None:
    assert isinstance(failure(run("decode", "-t", tiny_folder, stdin=said)), UsageError)


def test_without_a_tokenizer_the_command_that_makes_one_is_named(home: Layout) -> None:
    error = failure(run("encode", stdin=b"x"))
    assert isinstance(error, MissingError)
    assert error.hint == "picollm tok train --vocab-size 65536"


def test_the_process_ends_with_the_documented_code_and_one_message(home: Layout) -> None:
    code = "import sys; from picollm.cli.main import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "tok", "train", "--vocab-size", "65537"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --vocab-size 65,537")
    assert done.stdout == ""
