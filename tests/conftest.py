"""What every test may ask for: the shared real data, and small things made once."""

import os
import random
from pathlib import Path

import hypothesis
import pytest

from picollm.layout import Layout

# No test asserts a time: a busy machine is not a failure.
hypothesis.settings.register_profile("steady", deadline=None)
hypothesis.settings.load_profile("steady")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the checkout (`PICOLLM_SHARED` or ../shared)."""
    folder = Path(os.environ.get("PICOLLM_SHARED") or REPOSITORY.parent / "shared")
    if not folder.is_dir():
        why = f"real data not found at {folder}; set PICOLLM_SHARED"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    return folder


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Downloads and probe verdicts of the tests stay away from the user's own."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ.setdefault("PICOLLM_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A root with one tokenizer of 300 tokens and one shard set of a few thousand made-up sentences."""
    from picollm.corpus.source import open_source
    from picollm.shards.build import build
    from picollm.tok.train import train_tokenizer

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
