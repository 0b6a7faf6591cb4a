"""Which shards a run reads, and whether they may be read with this tokenizer. No torch."""

import hashlib
from dataclasses import replace
from pathlib import Path

from picollm.errors import MissingError, TokenizerMismatch, UsageError
from picollm.layout import Layout
from picollm.plan.facts import DataFacts
from picollm.plan.request import TrainRequest
from picollm.shards.manifest import ShardSet, Split

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
    shards = ShardSet.open(found)
    no_test_split(shards)
    data = DataFacts.of(shards)
    if request.tokenizer is not None:
        check_tokenizer(request.tokenizer, layout, data)
    return with_validation(data, shards, request.val_shards, layout) if request.val_shards else data


def with_validation(
    data: DataFacts, shards: ShardSet | None, said: str, layout: Layout, *, final: bool = False
) -> DataFacts:
    """The data with validation rows of another set, or of one split of it, named by a file. final: of a test split too.

    Raises MissingError, TokenizerMismatch, and UsageError for rows that are trained on, or kept for the end.
    """
    places = (Path(said), layout.shards / said)
    at = next((place for place in places if (place / MANIFEST).is_file() or place.suffix == ".bin"), None)
    if at is None:
        raise MissingError(f"--val-shards {said}: no shard set there", hint="picollm shard SOURCE --dataset-split NAME")
    other = ShardSet.open(at.parent if at.suffix == ".bin" else at)
    if not final:
        no_test_split(other)
    split: Split = "val" if other.val_documents else "train"
    if at.suffix == ".bin":
        split = "train" if at.name.startswith("train_") else "val"
    own = shards.splits["train"] if shards is not None else ()
    trained_on = {file.blake3 for file in own} & {file.blake3 for file in other.splits[split]}
    if trained_on:
        raise UsageError(
            f"validation shards overlap training shards: {len(trained_on)} of the {len(other.splits[split])} {split} "
            f"files of {other.path} are trained on",
            hint="leave --val-shards out: the set keeps documents for validation by itself",
        )
    if other.tokenizer_sha256 != data.tokenizer_sha256:
        raise TokenizerMismatch(
            f"shards {data.name} were made with tokenizer {data.tokenizer_sha256}, {other.path} with "
            f"{other.tokenizer_sha256}",
            hint="picollm shard SOURCE --tokenizer with the tokenizer of the training shards",
        )
    found = other.totals[split]
    return replace(
        data,
        val_path=str(other.path),
        val_split=split,
        val_fingerprint=other.fingerprint,
        val_tokens=found.n_tokens,
        val_documents=found.n_docs,
        val_bytes=found.utf8_bytes,
    )


def no_test_split(shards: ShardSet) -> None:
    """Raises UsageError for a set made from a data set's test split."""
    if is_test(shards):
        raise UsageError(
            f"{shards.path} was made from the split {shards.manifest['source']['split']!r}, which is for the end",
            hint=f"picollm eval RUN --final --val-shards {shards.path}",
        )


def is_test(shards: ShardSet) -> bool:
    return str(shards.manifest["source"].get("split", "")).startswith("test")


def found_again(data: DataFacts, run: Path, layout: Layout) -> DataFacts:
    """The data of a run with its paths as they are from here: they were written down where the run was started."""

    def here(path: str) -> str:
        places = (Path(path), run.resolve().parent.parent / path, layout.root / path, layout.shards / Path(path).name)
        return str(next((place for place in places if (place / MANIFEST).is_file()), path))

    return replace(data, path=here(data.path), val_path=here(data.val_path) if data.val_path else "")


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
