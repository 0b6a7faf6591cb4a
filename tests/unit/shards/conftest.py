import json
from pathlib import Path

import pytest

from picollm.tok.tokenizer import Tokenizer
from picollm.tok.train import train_on_texts

SENTENCE = "the a small cat dog house river walks sleeps runs sees über naïve 日本 🙂 and then 1999"
WORDS = SENTENCE.split()


def texts(count: int, start: int = 0) -> list[str]:
    """Distinct little documents of 1 to 40 words."""
    return [
        " ".join(WORDS[(number * 7 + word * word) % len(WORDS)] for word in range(1 + number * 13 % 40))
        + f" {number}\n"
        for number in range(start, start + count)
    ]


def write_jsonl(path: Path, documents: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"id": 1, "text": text}, ensure_ascii=False) + "\n" for text in documents))
    return path


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tokenizer of 400 tokens."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_on_texts(texts(200), 400).save(folder)
    return folder


@pytest.fixture(scope="session")
def encode(tokenizer: Path) -> Tokenizer:
    return Tokenizer.load(tokenizer)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 documents in three jsonl files and one of an odd kind."""
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(3):
        write_jsonl(folder / f"part-{number}.jsonl", texts(100, 100 * number))
    write_jsonl(folder / "deep" / "more.ndjson", texts(100, 300))
    return folder
