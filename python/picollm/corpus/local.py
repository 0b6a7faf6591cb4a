"""Files on this machine: a file, a folder or a pattern → a root and the paths below it, in bytewise order."""

import glob
import os
from dataclasses import dataclass
from pathlib import Path

from picollm.errors import MissingError, SourceError

ROWS = frozenset({"parquet", "jsonl", "ndjson"})
TEXT_NAMES = """
txt text md markdown rst tex html htm xml org adoc csv tsv log srt json yaml yml toml ini cfg py pyi pyx rs c h cc cpp
cxx hpp hh cu cuh go java kt kts scala js mjs jsx ts tsx rb pl pm php swift m mm r jl lua hs ml mli ex exs erl clj lisp
el scm sh bash zsh fish ps1 sql proto cmake make mk vim f f90 f95 pas d dart nim zig v sv vhd asm s
"""
TEXT = frozenset(TEXT_NAMES.split())
CODINGS = (".gz", ".zst")
MAGIC = set("*?[")


@dataclass(frozen=True)
class Listing:
    """`paths`: below `root`, `/` between parts. `left_out`: files that hold no documents, by their names."""

    root: Path
    paths: tuple[str, ...]
    left_out: tuple[str, ...]


def exists(spec: str) -> bool:
    """Whether `spec` is a path or a pattern that matches one."""
    return os.path.lexists(spec) or (bool(MAGIC & set(spec)) and any(True for _ in glob.iglob(spec, recursive=True)))


def extension(path: str) -> str:
    """`jsonl` of `a/B.JSONL.gz`; empty where there is none. Compression does not count."""
    name = path.rsplit("/", 1)[-1]
    for coding in CODINGS:
        name = name.removesuffix(coding)
    return name.rpartition(".")[2] if "." in name else ""


def readable(path: str) -> bool:
    """Whether the reader knows what a file of this name holds. Parquet compresses inside, never as a whole."""
    kind = extension(path)
    return kind in TEXT or (kind in ROWS and not (kind == "parquet" and path.endswith(CODINGS)))


def find(spec: str) -> Listing:
    """All files that `spec` means: never hidden ones; of unknown names only one that the path names itself; of a folder
    with rows (parquet, jsonl) nothing but those.

    Raises MissingError if nothing is left, SourceError for a name that is not UTF-8.
    """
    path = Path(spec)
    if path.is_file():
        return checked(spec, path.resolve().parent, [path.resolve().name], [])
    if path.is_dir():
        return rows_first(sorted_out(spec, path, walk(path)))
    if os.path.lexists(spec):
        raise MissingError(f"{spec}: neither a file nor a folder")
    fixed = Path(*[part for part in path.parts[: next(i for i, part in enumerate(path.parts) if MAGIC & set(part))]])
    found = []
    for match in glob.iglob(spec, recursive=True):
        inside = walk(Path(match)) if os.path.isdir(match) else [""]
        base = Path(match).relative_to(fixed).as_posix()
        found += [f"{base}/{name}".rstrip("/") for name in inside]
    return sorted_out(spec, fixed, sorted(set(found)))


def rows_first(listing: Listing) -> Listing:
    """In a folder of rows (parquet, jsonl) a text file is a description of them, not a document: it is left out."""
    rows = tuple(path for path in listing.paths if extension(path) in ROWS)
    if not rows:
        return listing
    others = (path for path in listing.paths if extension(path) not in ROWS)
    return Listing(listing.root, rows, tuple(sorted((*listing.left_out, *others))))


def walk(folder: Path) -> list[str]:
    """Files below `folder`, hidden ones and those in hidden folders left out."""
    found = []
    for at, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        base = Path(at).relative_to(folder)
        found += [(base / name).as_posix() for name in names if not name.startswith(".")]
    return found


def sorted_out(spec: str, root: Path, names: list[str]) -> Listing:
    known = [name for name in names if readable(name)]
    return checked(spec, root, known, [name for name in names if not readable(name)])


def checked(spec: str, root: Path, names: list[str], unknown: list[str]) -> Listing:
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise SourceError(f"{root}: a file name is not UTF-8: {name!r}", hint="rename it") from None
    if not names:
        left_out = f"; {len(unknown)} files of unknown kind, such as {unknown[0]}" if unknown else ""
        raise MissingError(
            f"{spec}: no text files{left_out}", hint="give parquet, jsonl (.gz, .zst), txt, md or source code"
        )
    return Listing(root.resolve(), tuple(sorted(names, key=str.encode)), tuple(sorted(unknown)))
