import random

import pytest

from picollm.corpus.source import open_source
from picollm.layout import Layout
from picollm.shards.build import build
from picollm.tok.train import train_tokenizer


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A root with one tokenizer of 300 tokens and one shard set of a few thousand made-up sentences."""
    root = tmp_path_factory.mktemp("home")
    rng = random.Random(7)
    words = [f"{a}{b}" for a in ("ka", "lo", "mi", "tu", "ren", "sol") for b in ("na", "vik", "st", "o", "er")]
    (root / "text").mkdir()
    for number in range(120):
        sentences = (" ".join(rng.choices(words, k=rng.randrange(4, 12))) + ".\n" for _ in range(30))
        (root / "text" / f"{number}.txt").write_text("".join(sentences))
    source = open_source(str(root / "text"))
    train_tokenizer(source, 300, workers=1).save(root / "tokenizers" / "tiny")
    build(source, root / "tokenizers" / "tiny", root / "shards" / "tiny", val_ppm=100_000, workers=1)
    return Layout(root)
