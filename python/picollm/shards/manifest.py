"""A shard set as its manifest names it: counts, checksums, parents. `shards/README.md` describes the files."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from picollm import _rustbpe
from picollm.errors import (
    FingerprintMismatch,
    MissingError,
    ShardCorruptError,
    ShardFormatError,
    TokenizerMismatch,
)

FORMAT = "picollm-shards/1"
MANIFEST = "manifest.json"
MANIFESTS = "manifests"
TOKENIZER = "tokenizer.json"
HEADER_BYTES = 1024
DOCS_PREFIX_BYTES = 128
ITEM_BYTES = {"uint16": 2, "uint32": 4}
NO_EOS = -1
SHARD_NAME = re.compile(r"(train|val)_[0-9]{6,}(_[0-9]{2,})?")
Split = Literal["train", "val"]
SPLITS: tuple[Split, Split] = ("train", "val")


def canonical(value: Any) -> bytes:
    """JSON in the one form that is hashed: sorted keys, no spaces, UTF-8, no floats."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


@dataclass(frozen=True)
class ShardFile:
    """One `.bin` with its sidecar. `utf8_bytes`: of the documents' text."""

    name: str
    split: Split
    n_tokens: int
    n_docs: int
    utf8_bytes: int
    max_id: int
    blake3: str
    blake3_docs: str

    @classmethod
    def from_json(cls, value: dict[str, Any], path: Path) -> Self:
        """Raises ShardFormatError for a field that is missing, unknown or of another type."""
        wanted = {name: kind if isinstance(kind, type) else str for name, kind in cls.__annotations__.items()}
        if not isinstance(value, dict) or {key: type(item) for key, item in value.items()} != wanted:
            raise ShardFormatError(f"{path}: not the entry of a shard file: {str(value)[:200]}")
        file = cls(**value)
        if not SHARD_NAME.fullmatch(file.name) or not file.name.startswith(f"{file.split}_"):
            raise ShardFormatError(f"{path}: {file.name!r} is no name of a {file.split} shard")
        return file

    def sizes(self, folder: Path, dtype: str) -> dict[Path, int]:
        """Both files with the sizes in bytes that they must have."""
        return {
            folder / f"{self.name}.bin": HEADER_BYTES + ITEM_BYTES[dtype] * self.n_tokens,
            folder / f"{self.name}.docs.npy": DOCS_PREFIX_BYTES + 4 * (self.n_docs + 1),
        }


@dataclass(frozen=True)
class Totals:
    """Sums over the files of a split. `n_tokens` counts one BOS per document."""

    n_tokens: int
    n_docs: int
    utf8_bytes: int
    n_files: int

    @classmethod
    def of(cls, files: Iterable[ShardFile]) -> Self:
        """Of these files."""
        files = list(files)
        tokens, docs, text = (
            sum(getattr(file, name) for file in files) for name in ("n_tokens", "n_docs", "utf8_bytes")
        )
        return cls(tokens, docs, text, len(files))


def fingerprint_of(body: dict[str, Any]) -> str:
    """blake3 that names the tokens, not the road they came by: of format, dtype, tokenizer and splits."""
    return _rustbpe.blake3_hex(canonical({key: body[key] for key in ("dtype", "format", "splits", "tokenizer")}))


def make_manifest(
    plan: dict[str, Any], plan_hash: str, records: list[dict[str, Any]], files: dict[Split, list[ShardFile]]
) -> dict[str, Any]:
    """The manifest of the leading segments of a plan, `records` being their commit records."""
    skipped = {name: sum(record["skipped"][name] for record in records) for name in ("bad_utf8", "empty", "null")}
    bad_files = sorted({path for record in records for path in record["skipped"]["bad_files"]}, key=str.encode)
    body: dict[str, Any] = {
        "dtype": plan["options"]["dtype"],
        "format": FORMAT,
        "options": plan["options"],
        "plan": plan_hash,
        "segments": {"committed": len(records), "planned": len(plan["segments"])},
        "skipped": {**skipped, "bad_files": bad_files},
        "source": plan["source"],
        "splits": {split: [vars(file) for file in files[split]] for split in SPLITS},
        "tokenizer": {**plan["tokenizer"], "eos": NO_EOS},
        "totals": {split: vars(Totals.of(files[split])) for split in SPLITS},
    }
    return {**body, "fingerprint": fingerprint_of(body)}


@dataclass(frozen=True)
class ShardSet:
    """A finished shard set, its files present and of the right sizes. What they hold is checked by `verify`."""

    path: Path
    name: str
    fingerprint: str
    dtype: str
    tokenizer_sha256: str
    vocab_size: int
    bos: int
    splits: dict[Split, tuple[ShardFile, ...]]
    totals: dict[Split, Totals]
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: Path | str, fingerprint: str | None = None) -> Self:
        """Open the newest manifest, or the one with this fingerprint (hex).

        Raises MissingError, ShardFormatError, ShardCorruptError, TokenizerMismatch, FingerprintMismatch.
        """
        folder = Path(folder)
        path = folder / MANIFEST if fingerprint is None else folder / MANIFESTS / f"{fingerprint[:16]}.json"
        body = read_manifest(path)
        if fingerprint is not None and body["fingerprint"] != fingerprint:
            raise FingerprintMismatch(f"{path}: is {body['fingerprint']}, wanted {fingerprint}")
        tokenizer = body["tokenizer"]
        check_tokenizer(folder / TOKENIZER, tokenizer["sha256"])
        splits = {split: tuple(ShardFile.from_json(file, path) for file in body["splits"][split]) for split in SPLITS}
        for file in (*splits["train"], *splits["val"]):
            check_sizes(file.sizes(folder, body["dtype"]))
        return cls(
            path=folder,
            name=folder.resolve().name,
            fingerprint=body["fingerprint"],
            dtype=body["dtype"],
            tokenizer_sha256=tokenizer["sha256"],
            vocab_size=tokenizer["vocab_size"],
            bos=tokenizer["bos"],
            splits=splits,
            totals={split: Totals.of(splits[split]) for split in SPLITS},
            manifest=body,
        )

    def files(self, split: Split) -> list[Path]:
        """The `.bin` files of a split in plan order."""
        return [self.path / f"{file.name}.bin" for file in self.splits[split]]

    @property
    def train_tokens(self) -> int:
        return self.totals["train"].n_tokens

    @property
    def val_tokens(self) -> int:
        return self.totals["val"].n_tokens

    @property
    def train_documents(self) -> int:
        return self.totals["train"].n_docs

    @property
    def val_documents(self) -> int:
        return self.totals["val"].n_docs

    @property
    def train_bytes(self) -> int:
        return self.totals["train"].utf8_bytes

    @property
    def val_bytes(self) -> int:
        return self.totals["val"].utf8_bytes


def read_manifest(path: Path) -> dict[str, Any]:
    """Read and check a manifest. Raises MissingError, ShardFormatError, ShardCorruptError."""
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise MissingError(
            f"{path.parent}: no shard set ({path.name} is not there)", hint="picollm shard SOURCE"
        ) from None
    try:
        body = json.loads(data)
        form = body["format"]
        if form != FORMAT:
            raise ShardFormatError(f"{path}: format {form!r}; this picollm reads {FORMAT}")
        if body["dtype"] not in ITEM_BYTES or type(body["fingerprint"]) is not str:
            raise ShardFormatError(f"{path}: dtype {body['dtype']!r}, fingerprint {body['fingerprint']!r}")
        found = fingerprint_of(body)
        ids = [body["tokenizer"][name] for name in ("vocab_size", "bos")]
        known = all(type(value) is int for value in ids) and type(body["tokenizer"]["sha256"]) is str
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ShardFormatError(f"{path}: not a manifest: {type(error).__name__} {error}") from error
    if not known:
        raise ShardFormatError(f"{path}: the tokenizer's facts are {body['tokenizer']}")
    if found != body["fingerprint"]:
        raise ShardCorruptError(f"{path}: says fingerprint {body['fingerprint']}, its content gives {found}")
    manifest: dict[str, Any] = body
    return manifest


def check_tokenizer(path: Path, sha256: str) -> None:
    """Raises MissingError, or TokenizerMismatch with both hashes."""
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        raise MissingError(f"{path}: is not there", hint=f"copy back the tokenizer with sha256 {sha256}") from None
    if found != sha256:
        raise TokenizerMismatch(f"{path}: is {found}, the shards were made with {sha256}", hint="put the old file back")


def check_sizes(sizes: dict[Path, int]) -> None:
    """Raises MissingError for an absent file, ShardCorruptError for one of another size."""
    for path, wanted in sizes.items():
        try:
            found = path.stat().st_size
        except FileNotFoundError:
            raise MissingError(
                f"{path}: is not there", hint="run the picollm shard command of this set again"
            ) from None
        if found != wanted:
            raise ShardCorruptError(
                f"{path}: {found:,} bytes; the manifest says {wanted:,}",
                hint="delete it and run the picollm shard command of this set again",
            )
