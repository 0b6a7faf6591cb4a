"""`Source`: the files of a corpus, how to read them, and how they are cut. Reading itself is Rust's."""

import json
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from picollm import _rustbpe
from picollm.corpus import local, stdlib
from picollm.corpus.catalog import ALIASES, STDLIB
from picollm.corpus.supply import Need, Remote, Supply, Wanted
from picollm.errors import MissingError, SourceChangedError, UsageError

LOCAL_VAL_PPM = 10_000
COUNTING_TOKENS = 10_000_000  # tokens of a segment where nothing else asks for a size
# Hundredths of a file byte per token, by kind of file; they shape file sizes only.
CENTIBYTES = {"parquet": 250, "text": 450, "compressed": 180}
HUB_ID = re.compile(r"(?:hf://)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)")
OFFLINE = "picollm tok train --vocab-size 65536 --dataset-name stdlib"


@dataclass(frozen=True)
class SourceFile:
    """A file below the root. `size` in bytes; `sha256` in hex once it was read."""

    path: str
    size: int
    sha256: str | None = None

    def plain(self) -> dict[str, Any]:
        """As JSON values, without what is not known."""
        return {key: value for key, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class ReadOptions:
    """How documents are taken out of files. `text_column` None where files are plain text."""

    text_column: str | None = None
    doc_sep: str | None = None
    bad_utf8: Literal["error", "skip", "replace"] = "error"
    on_bad_file: Literal["error", "skip"] = "error"

    def plain(self) -> dict[str, Any]:
        """As JSON values, without what is not said."""
        return {key: value for key, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Segment:
    """What becomes one shard: files `files[0]` to `files[1]` (exclusive), or of one file the slice `slice[0]` of
    `slice[1]`."""

    index: int
    files: tuple[int, int]
    slice: tuple[int, int]

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {"files": list(self.files), "index": self.index, "slice": list(self.slice)}


@dataclass(frozen=True)
class Source:
    """A corpus. `root` is where the files lie and no part of what the corpus is; files that a `remote` brings lie
    nowhere yet, and then `root` is where copies of them are kept."""

    name: str
    kind: str
    root: Path
    files: tuple[SourceFile, ...]
    read: ReadOptions
    val_ppm: int
    licence: str = "the files' own"
    build: str | None = None  # what the text belongs to, where that is not in the files: the interpreter of `stdlib`
    warnings: tuple[str, ...] = ()
    origin: tuple[tuple[str, str], ...] = ()  # what else names the corpus: repo, revision, config, split
    centibytes: int | None = None  # hundredths of a file byte per token, where that is known
    remote: Remote | None = None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def estimated_tokens(self) -> int:
        """Tokens to expect: right within a factor of about two, the same on every machine."""
        return sum(estimated_tokens(file, self.centibytes) for file in self.files)

    def segments(self, segment_tokens: int) -> list[Segment]:
        """Cut into segments of about this many tokens, in the order of the files."""
        return cut(self.files, segment_tokens, self.centibytes)

    def supply(
        self, todo: Sequence[Segment], folder: Path, wanted: Wanted, *, per_token: float = 1.0, **options: Any
    ) -> Supply | None:
        """What brings the files of `todo` into `folder`, in that order; None where they are in place.

        `wanted` counts in units of which a token is `per_token`.
        """
        if self.remote is None:
            return None
        sizes = [estimated_tokens(file, self.centibytes) * per_token for file in self.files]
        needs = [
            Need(
                segment.index,
                self.files[slice(*segment.files)],
                max(1, int(sum(sizes[slice(*segment.files)]) / segment.slice[1])),
            )
            for segment in todo
        ]
        return Supply(self.remote, folder, needs, wanted, **options)

    def plan_json(self, segment_tokens: int = COUNTING_TOKENS) -> bytes:
        """`files`, `options` and `segments` as JSON: what Rust needs to read the corpus."""
        body = {
            "files": [file.plain() for file in self.files],
            "options": self.read.plain(),
            "segments": [segment.plain() for segment in self.segments(segment_tokens)],
        }
        return json.dumps(body).encode()

    def plain(self) -> dict[str, Any]:
        """What the corpus is, as JSON values: the `source` of a plan and of a manifest."""
        facts = {"kind": self.kind, "licence": self.licence, "name": self.name}
        if self.build is not None:
            facts["build"] = self.build
        facts.update(self.origin)
        return {**facts, "files": [file.plain() for file in self.files]}

    def hashed(self, workers: int, progress: Any = None) -> "Source":
        """The same source with the sha256 of every file: read now, but for files that a remote brings, whose sha256
        it has told. Raises SourceChangedError if a size changed."""
        if self.remote is not None:
            return self
        hashes = sha256_files(self.root, self.files, workers, progress)
        files = tuple(replace(file, sha256=found) for file, found in zip(self.files, hashes, strict=True))
        return replace(self, files=files)


def sha256_files(root: Path, files: Sequence[SourceFile], workers: int, progress: Any = None) -> list[str]:
    """sha256 of each file in hex. Raises SourceChangedError where the size is not the one listed."""
    for file in files:
        path = root / file.path
        found = path.stat().st_size if path.is_file() else None
        if found != file.size:
            raise SourceChangedError(f"{path}: {file.size:,} bytes when it was listed, {found or 'gone'} now")
    return _rustbpe.sha256_files([str(root / file.path) for file in files], workers, progress)


def kind_of(path: str) -> str:
    """`parquet`, `text` or `compressed`: what decides how many tokens a byte is."""
    if path.endswith(local.CODINGS):
        return "compressed"
    return "parquet" if local.extension(path) == "parquet" else "text"


def estimated_tokens(file: SourceFile, centibytes: int | None = None) -> int:
    """Whole tokens, rounded down; integers only, so that every machine cuts alike."""
    return file.size * 100 // (centibytes or CENTIBYTES[kind_of(file.path)])


def centibytes_of(files: Sequence[SourceFile], text_permille: int | None) -> int | None:
    """Hundredths of a file byte per token of files of parquet that hold so much text in a thousand bytes: the first
    file's footer speaks for all of them. None where files differ in kind or nothing is known."""
    if not text_permille or any(kind_of(file.path) != "parquet" for file in files):
        return None
    return max(1, CENTIBYTES["text"] * 1000 // text_permille)


def cut(files: Sequence[SourceFile], segment_tokens: int, centibytes: int | None = None) -> list[Segment]:
    """Large parquet and jsonl files become slices, small files are grouped in order up to the target."""
    segments: list[Segment] = []
    start, held = 0, 0

    def close(end: int) -> None:
        if end > start:
            segments.append(Segment(len(segments), (start, end), (0, 1)))

    for index, file in enumerate(files):
        tokens = estimated_tokens(file, centibytes)
        sliceable = local.extension(file.path) in local.ROWS and kind_of(file.path) != "compressed"
        slices = max(1, (tokens + segment_tokens // 2) // segment_tokens) if sliceable else 1
        if slices > 1 or held + tokens > segment_tokens:
            close(index)
            start, held = index, 0
        if slices > 1:
            segments += [Segment(len(segments) + j, (index, index + 1), (j, slices)) for j in range(slices)]
            start = index + 1
        else:
            held += tokens
    close(len(files))
    return segments


def open_source(
    spec: str,
    *,
    text_column: str | None = None,
    bad_utf8: Literal["error", "skip", "replace"] = "error",
    on_bad_file: Literal["error", "skip"] = "error",
    doc_sep: str | None = None,
    dataset_config: str | None = None,
    dataset_split: str | None = None,
) -> Source:
    """The corpus on this machine that `spec` means: `stdlib`, else an existing path or pattern. What is on the Hub is
    opened by `picollm.corpus.hub`.

    Reads the head of one file to settle the text column. Raises MissingError, UsageError (TextColumnError) and
    SourceError.
    """
    if spec != STDLIB and not local.exists(spec):
        raise not_found(spec)
    for option, said in (("--dataset-config", dataset_config), ("--dataset-split", dataset_split)):
        if said is not None:
            raise UsageError(f"{option} {said}: {spec} has none; that is for data sets of the Hub")
    if spec == STDLIB:
        return open_stdlib(ReadOptions(None, None, "skip", on_bad_file))
    listing = local.find(spec)
    files = listed(listing)
    options = ReadOptions(text_column, doc_sep, bad_utf8, on_bad_file)
    look = sniff(listing.root, files, options)
    warnings = list(look["warnings"])
    if listing.left_out:
        warnings.append(f"left-out: {len(listing.left_out)} files that are no documents, such as {listing.left_out[0]}")
    return Source(
        name=name_of(spec, listing.root),
        kind="local",
        root=listing.root,
        files=files,
        read=replace(options, text_column=look["text_column"]),
        val_ppm=LOCAL_VAL_PPM,
        warnings=tuple(warnings),
        centibytes=centibytes_of(files, look.get("text_permille")),
    )


def open_stdlib(read: ReadOptions) -> Source:
    listing = stdlib.find()
    build = f"{platform.python_implementation()} {platform.python_version()}"
    files = listed(listing)
    return Source(STDLIB, STDLIB, listing.root, files, read, stdlib.VAL_PPM, "PSF-2.0", build)


def listed(listing: local.Listing) -> tuple[SourceFile, ...]:
    return tuple(SourceFile(path, (listing.root / path).stat().st_size) for path in listing.paths)


def sniff(root: Path, files: Sequence[SourceFile], options: ReadOptions) -> dict[str, Any]:
    """`text_column`, `columns`, `text_permille` and `warnings` of the first file that has columns."""
    about = json.dumps([file.plain() for file in files]).encode(), json.dumps(options.plain()).encode()
    look: dict[str, Any] = json.loads(_rustbpe.sniff_source(str(root), *about))
    return look


def name_of(spec: str, root: Path) -> str:
    """The corpus's name: the last part of the path, without the endings of a file."""
    if local.MAGIC & set(spec):
        return root.name or "corpus"
    path = Path(spec).resolve()
    name = path.name.split(".")[0] if path.is_file() else path.name
    return name or "corpus"


def not_found(spec: str) -> Exception:
    return MissingError(f"{spec}: no such path; the aliases are {', '.join(ALIASES)}", hint=OFFLINE)
