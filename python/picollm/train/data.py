"""Which shards a run reads, and whether they may be read with this tokenizer. No torch."""

import hashlib
from pathlib import Path

from picollm.errors import MissingError, TokenizerMismatch
from picollm.layout import Layout
from picollm.plan.facts import DataFacts
from picollm.plan.request import TrainRequest
from picollm.shards.manifest import ShardSet

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"


def find_shards(request: TrainRequest, layout: Layout) -> Path | None:
    """The shard set that is meant: the named one, else the only one, else the one finished last. None: absent."""
    said = request.shards or request.dataset_name
    if said is not None:
        places = (Path(said), layout.shards / said, layout.shards / Path(said).name)
        return next((place for place in places if (place / MANIFEST).is_file()), None)
    sets = list(layout.shards.glob(f"*/{MANIFEST}"))
    return max(sets, key=lambda path: (path.stat().st_mtime, path.parent.name)).parent if sets else None


def facts(request: TrainRequest, layout: Layout) -> DataFacts | None:
    """The data a request means, opened and checked against the tokenizer it names. None: there are no shards."""
    found = find_shards(request, layout)
    if found is None:
        return None
    data = DataFacts.of(ShardSet.open(found))
    if request.tokenizer is not None:
        check_tokenizer(request.tokenizer, layout, data)
    return data


def check_tokenizer(said: str, layout: Layout, data: DataFacts) -> None:
    """Raises TokenizerMismatch with both hashes unless the named tokenizer made the shards."""
    places = (Path(said), Path(said) / TOKENIZER, layout.tokenizers / said / TOKENIZER)
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise MissingError(f"no tokenizer {said!r}", hint="leave --tokenizer out: the shards bring theirs")
    own = hashlib.sha256(path.read_bytes()).hexdigest()
    if own != data.tokenizer_sha256:
        raise TokenizerMismatch(
            f"shards {data.name} were made with tokenizer {data.tokenizer_sha256}, {path} is {own}",
            hint=f"leave --tokenizer out, or: picollm shard SOURCE --tokenizer {said} --out shards/NEW",
        )


def tokenizer_bytes(data: DataFacts) -> bytes:
    """The exact `tokenizer.json` that made the shards, from beside them. Raises TokenizerMismatch if it was changed."""
    path = Path(data.path) / TOKENIZER
    if not path.is_file():
        raise MissingError(f"{path} is missing", hint=f"picollm shard verify {data.path}")
    found = path.read_bytes()
    own = hashlib.sha256(found).hexdigest()
    if own != data.tokenizer_sha256:
        raise TokenizerMismatch(
            f"{path} has sha256 {own}, the shards were made with {data.tokenizer_sha256}",
            hint=f"put the right file back, or: picollm shard verify {data.path}",
        )
    return found
