"""What every test may ask for: the shared real data, and small things made once."""

import os
import random
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import hypothesis
import pytest
from tests.hub import Hub, running

from picollm.layout import Layout

# No test touches a network: the Hub's library reads these when it is imported, and nothing answers at port 9.
os.environ.update(
    HF_ENDPOINT="http://127.0.0.1:9",
    HF_HOME=tempfile.mkdtemp(prefix="picollm-hf-"),
    HF_HUB_DISABLE_IMPLICIT_TOKEN="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_UPDATE_CHECK="1",
    HF_HUB_DISABLE_XET="1",
    HF_HUB_DOWNLOAD_TIMEOUT="2",
    HF_HUB_ETAG_TIMEOUT="2",
    NO_PROXY="127.0.0.1",
)
for variable in ("HF_TOKEN", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN"):
    os.environ.pop(variable, None)


# No test asserts a time: a busy machine is not a failure.
hypothesis.settings.register_profile("steady", deadline=None)
hypothesis.settings.load_profile("steady")

collect_ignore = [] if find_spec("playwright") else ["page"]  # its browser driver is a group of its own
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


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub of this test's own; HF_ENDPOINT says so."""
    with running() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        yield found


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
