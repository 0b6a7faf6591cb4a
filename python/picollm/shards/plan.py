"""`plan.json`: the frozen list of segments. Whatever the bytes depend on is in it; where the files lie is not."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from picollm import _rustbpe
from picollm.corpus.source import Segment, Source, SourceFile
from picollm.errors import CheckError, ShardFormatError, SourceChangedError, TokenizerMismatch, UsageError
from picollm.shards.manifest import ITEM_BYTES, canonical

PLAN = "plan.json"
PLAN_FORMAT = "picollm-plan/1"
VERSIONS = {"reading": 1, "validation": 1}  # of the rules that turn files into documents and choose validation
SHARD_TOKENS_LEAST = 4_000_000
SHARD_TOKENS_MOST = 100_000_000
SHARDS_WANTED = 32  # enough for every core of an ordinary machine, from a source of any size
LARGEST_UINT16_VOCAB = 65_536
MILLION = 1_000_000


@dataclass(frozen=True)
class TokenizerFacts:
    """What a plan says of the tokenizer: `sha256` of tokenizer.json in hex, ids in all, id of BOS."""

    sha256: str
    vocab_size: int
    bos: int


@dataclass(frozen=True)
class Options:
    """What a build asks for; None is not said."""

    val_ppm: int | None = None
    shard_tokens: int | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class ShardPlan:
    """The bytes of `plan.json` and what they say."""

    data: bytes
    body: dict[str, Any]

    @classmethod
    def make(cls, source: Source, tokenizer: TokenizerFacts, options: Options) -> Self:
        """Plan a source whose files are hashed. Raises UsageError."""
        tokens = options.shard_tokens or default_shard_tokens(source.estimated_tokens())
        body = {
            "format": PLAN_FORMAT,
            "options": {
                **source.read.plain(),
                "dtype": dtype_for(tokenizer.vocab_size, options.dtype),
                "shard_tokens": tokens,
                "val_ppm": val_ppm_of(source, options),
            },
            "segments": [segment.plain() for segment in source.segments(tokens)],
            "source": source.plain(),
            "tokenizer": vars(tokenizer),
            "versions": VERSIONS,
        }
        return cls(canonical(body), body)

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """The plan of a folder, None where there is none. Raises ShardFormatError."""
        path = folder / PLAN
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            body = json.loads(data)
            known = body["format"] == PLAN_FORMAT and body["versions"] == VERSIONS and canonical(body) == data
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ShardFormatError(f"{path}: not a plan: {type(error).__name__} {error}") from error
        if not known:
            raise ShardFormatError(f"{path}: not a plan of this picollm ({PLAN_FORMAT}, rules {VERSIONS})")
        return cls(data, body)

    @property
    def hash(self) -> str:
        """`blake3:` and the hash of the file."""
        return f"blake3:{_rustbpe.blake3_hex(self.data)}"

    @property
    def files(self) -> tuple[SourceFile, ...]:
        return tuple(SourceFile(**file) for file in self.body["source"]["files"])

    @property
    def segments(self) -> list[Segment]:
        rows = self.body["segments"]
        return [Segment(row["index"], tuple(row["files"]), tuple(row["slice"])) for row in rows]

    def check_same(self, source: Source, tokenizer: TokenizerFacts, options: Options, folder: Path) -> None:
        """Refuse to go on in `folder` with anything else than it was planned for.

        Raises TokenizerMismatch, CheckError, SourceChangedError, each with both values.
        """
        hint = "choose another folder: --out DIR"
        old = self.body["tokenizer"]
        if old != vars(tokenizer):
            raise TokenizerMismatch(
                f"{folder}: planned with tokenizer {old['sha256']} ({old['vocab_size']:,} ids), this one is "
                f"{tokenizer.sha256} ({tokenizer.vocab_size:,} ids)",
                hint=hint,
            )
        said = {
            **source.read.plain(),
            "dtype": options.dtype or self.body["options"]["dtype"],
            "shard_tokens": options.shard_tokens or self.body["options"]["shard_tokens"],
            "val_ppm": val_ppm_of(source, options),
        }
        if said != self.body["options"]:
            before, now = self.body["options"], said
            differ = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
            what = "; ".join(f"{key} was {before.get(key)}, is {now.get(key)}" for key in differ)
            asked = _rustbpe.blake3_hex(canonical({**self.body, "options": said}))
            raise CheckError(
                f"{folder}: planned with other options: {what} ({self.hash}, now blake3:{asked})", hint=hint
            )
        listed = {file.path: (file.size, file.sha256) for file in source.files}
        planned = {
            file.path: (file.size, file.sha256 if listed.get(file.path, (0, None))[1] else None) for file in self.files
        }
        if listed != planned or source.build != self.body["source"].get("build"):
            changed = sorted(path for path in listed.keys() | planned.keys() if listed.get(path) != planned.get(path))
            what = f"{len(changed)} files differ, such as {changed[0]}" if changed else f"{source.build} now"
            raise SourceChangedError(f"{folder}: planned for other files of {source.name}: {what}", hint=hint)


def default_shard_tokens(estimated: int) -> int:
    """Tokens per file: a 32nd of the source, never a function of the workers."""
    return min(max(estimated // SHARDS_WANTED, SHARD_TOKENS_LEAST), SHARD_TOKENS_MOST)


def val_ppm_of(source: Source, options: Options) -> int:
    """Documents per million that are validation. Raises UsageError outside 0 … 1,000,000."""
    value = source.val_ppm if options.val_ppm is None else options.val_ppm
    if not 0 <= value <= MILLION:
        raise UsageError(f"--val-ppm {value}: documents per million, so 0 to {MILLION:,}")
    return value


def dtype_for(vocab_size: int, said: str | None) -> str:
    """uint16 up to and including 65,536 ids; beyond that uint32, if it is asked for. Raises UsageError."""
    if said is not None and said not in ITEM_BYTES:
        raise UsageError(f"--dtype {said}: uint16 or uint32")
    if vocab_size > LARGEST_UINT16_VOCAB and said != "uint32":
        raise UsageError(
            f"this tokenizer has {vocab_size:,} ids; uint16 shards hold {LARGEST_UINT16_VOCAB:,}",
            hint="special tokens count: train with --vocab-size 65536 to include them. Or pass --dtype uint32 for "
            "files of twice the size, which llm.c and modded-nanogpt cannot read",
        )
    return said or "uint16"
