"""Parquet files as fineweb-edu has them, made here."""

import io
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.hub import Hub, Repository

from picollm.cli.main import main
from picollm.tok.train import train_on_texts

REPO = "HuggingFaceFW/fineweb-edu"
WORDS = [
    f"{a}{b}" for a in ("ka", "lo", "mi", "tu", "ren", "sol", "über") for b in ("na", "vik", "st", "o", "er", "日")
]
SCHEMA = pa.schema(
    [
        *[(name, pa.string()) for name in ("text", "id", "dump", "url", "file_path", "language")],
        ("language_score", pa.float64()),
        ("token_count", pa.int64()),
        ("score", pa.float64()),
        ("int_score", pa.int64()),
    ]
)


def sentences(count: int, seed: int) -> list[str]:
    """Made-up documents."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randrange(20, 60))) + f". {number}\n" for number in range(count)]


def table(texts: list[str]) -> pa.Table:
    """The ten columns of fineweb-edu."""
    columns = {
        "text": texts,
        "id": [f"<urn:uuid:{number}>" for number in range(len(texts))],
        "dump": ["CC-MAIN-2024-10"] * len(texts),
        "url": [f"https://example.org/{number}" for number in range(len(texts))],
        "file_path": ["s3://x"] * len(texts),
        "language": ["en"] * len(texts),
        "language_score": [0.9] * len(texts),
        "token_count": [len(text) // 4 for text in texts],
        "score": [3.1] * len(texts),
        "int_score": [3] * len(texts),
    }
    return pa.table(columns, schema=SCHEMA)


def parquet(texts: list[str], group: int = 1000, compression: str = "snappy") -> bytes:
    """A file with row groups as in the real one."""
    sink = io.BytesIO()
    pq.write_table(table(texts), sink, row_group_size=group, compression=compression)
    return sink.getvalue()


def fineweb(files: int, documents: int = 300, group: int = 100) -> dict[str, bytes]:
    """The layout of the repository: a sample, and two dumps with their two schemes of names."""
    layout = {
        f"sample/10BT/{number:03}_00000.parquet": parquet(sentences(documents, number), group)
        for number in range(files)
    }
    layout["data/CC-MAIN-2013-20/train-00000-of-00001.parquet"] = parquet(sentences(50, 90))
    layout["data/CC-MAIN-2024-10/000_00000.parquet"] = parquet(sentences(60, 91))
    layout["README.md"] = b"# fineweb-edu, made here\n"
    return layout


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home and cache, with a tokenizer of 400 tokens."""
    monkeypatch.setenv("PICOLLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PICOLLM_CACHE", str(tmp_path / "cache"))
    train_on_texts(sentences(200, 1), 400).save(tmp_path / "home" / "tokenizers" / "tiny-400")
    return tmp_path / "home"


@pytest.fixture
def edu(hub: Hub) -> Repository:
    """fineweb-edu with four files of the sample."""
    return hub.add(REPO, fineweb(4))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> "Run":
    return Run(capsys)


class Run:
    """Calls the command line; `run("shard", …)` is (exit code, stdout, stderr)."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(list(words))
        said = self.capsys.readouterr()
        assert isinstance(left.value.code, int)
        return left.value.code, said.out, said.err
