"""Other programs read our tokenizer, and we read theirs, with the same ids."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tiktoken
import tokenizers
from click.testing import CliRunner

from picollm import _rustbpe
from picollm.cli.main import cli
from picollm.errors import BusyError, SourceError, UsageError
from picollm.runtime import durable
from picollm.tok.exchange import compare, counter, o200k, read_tiktoken, tiktoken_ranks
from picollm.tok.special import SPECIALS
from picollm.tok.tokenizer import Tokenizer
from picollm.tok.train import train_on_texts

SAMPLE = 1_500_000  # bytes of each kind of text that all three programs encode


def rows(path: Path, heldout: bool | None = None) -> Iterator[str]:
    with pq.ParquetFile(path) as opened:
        columns = ["text"] if heldout is None else ["text", "heldout"]
        for batch in opened.iter_batches(1000, columns=columns):
            texts = batch.column(0).to_pylist()
            marks = texts if heldout is None else batch.column(1).to_pylist()
            yield from (text for text, mark in zip(texts, marks, strict=True) if heldout is None or mark == heldout)


def some(texts: Iterator[str]) -> list[str]:
    taken, size = [], 0
    for text in texts:
        taken.append(text)
        size += len(text.encode())
        if size > SAMPLE:
            break
    return taken


def in_tiktoken(ranks: bytes, pattern: str) -> tiktoken.Encoding:
    pairs = [line.split() for line in ranks.splitlines()]
    table = {base64.b64decode(token): int(rank) for token, rank in pairs}
    specials = {name: len(table) + i for i, name in enumerate(SPECIALS)}
    return tiktoken.Encoding(
        "ours", pat_str=_rustbpe.pattern_regex(pattern), mergeable_ranks=table, special_tokens=specials
    )


@pytest.mark.row("K9")
@pytest.mark.row("K11")
@pytest.mark.row("T3")
def test_a_vocabulary_of_65536_gives_the_same_ids_in_tokenizers_and_tiktoken(shared: Path, tmp_path: Path) -> None:
    bench = shared / "data/bench_corpus"
    source = tmp_path / "train.jsonl"
    with source.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in rows(bench / "english_100.parquet", False))
    out = tmp_path / "made"
    done = CliRunner().invoke(cli, ["tok", "train", str(source), "--vocab-size", "65536", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "65,536 tokens = 256 bytes + 65,271 merges + 9 specials; max id 65,535 (fits uint16)" in done.output
    ours = Tokenizer.load(out)
    assert (ours.vocab_size, max(ours.specials.values())) == (65_536, 65_535)
    other = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
    other.encode_special_tokens = True
    third = in_tiktoken(tiktoken_ranks(ours), "picollm")
    assert other.get_vocab_size() == third.n_vocab == 65_536
    for texts in (
        some(rows(bench / "english_100.parquet", True)),
        some(rows(bench / "code_20.parquet")),
        some(rows(bench / "multi_20.parquet")),
        ["emoji 🙂🏽‍🚀 <|bos|> \u0000 e\u0301\u200d", " " * 1000, "a" * 1000],
    ):
        ids, offsets = ours.encode_batch(texts)
        theirs = other.encode_batch_fast(texts, add_special_tokens=False)
        for i, (text, encoded) in enumerate(zip(texts, theirs, strict=True)):
            mine = ids[offsets[i] : offsets[i + 1]].tolist()
            assert mine == encoded.ids == third.encode_ordinary(text), text[:80]


def test_ranks_go_out_to_tiktoken_and_come_back_as_the_same_tokenizer(tiny: Tokenizer, tmp_path: Path) -> None:
    file = tmp_path / "tiny.tiktoken"
    file.write_bytes(tiktoken_ranks(tiny))
    assert read_tiktoken(file, "picollm").core.to_json() == tiny.core.to_json()
    for damaged in (b"x", b"YQ== 0", b"YQ== 0\nYQ== 1\n", b"!! 3\n", b"YQ== -1\n", b"YQ== 99999999999\n"):
        file.write_bytes(damaged)
        with pytest.raises(SourceError, match="no ranks of tiktoken"):
            read_tiktoken(file, "picollm")


@pytest.mark.row("K11")
@pytest.mark.parametrize("form", ["hf", "picollm", "tiktoken"])
def test_every_export_can_be_imported_again(tiny: Tokenizer, tmp_path: Path, form: str) -> None:
    tiny.save(tmp_path / "tiny")
    out, again = tmp_path / ("out.tiktoken" if form == "tiktoken" else "out"), tmp_path / "again"

    def tok(*args: str) -> object:
        return CliRunner().invoke(cli, ["tok", *args]).exception

    assert tok("export", "--format", form, "-o", str(out), "-t", str(tmp_path / "tiny")) is None
    if form == "tiktoken":
        assert isinstance(tok("import", str(out), "-o", str(again)), UsageError)  # the pattern is not in the file
    assert tok("import", str(out), "--pattern", "picollm", "-o", str(again)) is None
    assert Tokenizer.load(again).fingerprint == tiny.fingerprint
    assert isinstance(tok("import", str(out), "--pattern", "picollm", "-o", str(again)), UsageError)


@pytest.mark.row("K10")
def test_eval_counts_bytes_per_token_by_kind_of_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICOLLM_SHARED", str(tmp_path / "nothing"))
    made = train_on_texts(["abab " * 9], 268)
    made.save(tmp_path / "made")
    (tmp_path / "text.txt").write_bytes(b"abababab\xff")
    [row] = compare({"text": [b"abababab\xff"]}, {"this": counter(made)})
    assert (row.bytes, dict(row.tokens)) == (9, {"this": len(made.encode(b"abababab\xff"))})
    args = ["tok", "eval", f"letters={tmp_path / 'text.txt'}", "-t", str(tmp_path / "made")]
    told = json.loads(CliRunner().invoke(cli, [*args, "--json"]).stdout)
    [kind] = told["kinds"]
    assert (kind["kind"], kind["bytes"], kind["tokens"]["this"]) == ("letters", 9, row.tokens["this"])
    assert f"{row.per_token('this'):.3f}" in CliRunner().invoke(cli, args).stdout


@pytest.mark.row("K10")
def test_o200k_counts_where_its_package_is_installed() -> None:
    count = o200k()
    if count is None:
        pytest.skip("bpe-openai is not installed")
    assert count([b"Hello world", "naïve \U0001f642".encode(), b"\xff"]) == 2 + 4 + 1


@pytest.mark.row("K11")
def test_an_export_waits_for_nobody_who_writes_there(tiny: Tokenizer, tmp_path: Path) -> None:
    tiny.save(tmp_path / "tiny")
    out = tmp_path / "out"
    with durable.lock(out):
        for form in ("hf", "picollm"):
            args = ["tok", "export", "--format", form, "-o", str(out), "-t", str(tmp_path / "tiny")]
            assert isinstance(CliRunner().invoke(cli, args).exception, BusyError)
    assert not (out / "tokenizer.json").exists()


def test_show_puts_a_bar_between_tokens_where_there_is_no_terminal(tiny: Tokenizer, tmp_path: Path) -> None:
    tiny.save(tmp_path / "tiny")
    shown = CliRunner().invoke(cli, ["tok", "show", "-t", str(tmp_path / "tiny")], input=b"The \xff[red]")
    pieces = [tiny.token_bytes(id) for id in tiny.encode(b"The \xff[red]")]
    assert shown.stdout == "|".join(p.decode() if p.isascii() else p.hex(" ") for p in pieces) + "\n"
