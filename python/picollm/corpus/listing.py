"""What lies in a repository: its files cut into configurations and splits, by its own card or by their names."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from picollm.corpus import local
from picollm.corpus.catalog import Entry
from picollm.errors import MissingError, SourceError, UsageError

DEFAULT = "default"
TRAIN = "train"
LONGEST_PART = 255  # bytes of a part of a path
PART = re.compile(r"[A-Za-z0-9._=+@,()\[\] -]+")
NUMBERED = re.compile(r"(?:partial-)?([A-Za-z][\w.]*?)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?\.")  # train-00000-of-00014.parquet
SPLIT_WORD = re.compile(r"(?:^|[/._-])(train|test|validation|valid|val|dev|eval)(?=[/._-]|\d)")
SPLIT_NAMES = {"valid": "validation", "val": "validation", "dev": "validation", "eval": "test"}
SHOWN = 8  # names in an error message

Layout = dict[str, dict[str, list[str]]]  # configuration → split → paths in reading order


@dataclass(frozen=True)
class Chosen:
    """One configuration and split of a repository."""

    config: str
    split: str
    paths: tuple[str, ...]


def matching(pattern: str, paths: Iterable[str]) -> list[str]:
    """Paths that a pattern means: `*` stays within a part, `**` does not. Bytewise order."""
    parts = re.split(r"(\*\*/?|\*|\?)", pattern)
    words = {"**": ".*", "**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    regex = re.compile("".join(words.get(part, re.escape(part)) for part in parts))
    return sorted((path for path in paths if regex.fullmatch(path)), key=str.encode)


def rows_of(paths: Iterable[str]) -> list[str]:
    """Files that hold rows and that the reader knows: parquet if there are any, else jsonl. Bytewise order."""
    known = [path for path in paths if local.readable(path) and local.extension(path) in local.ROWS]
    parquet = [path for path in known if local.extension(path) == "parquet"]
    return sorted(parquet or known, key=str.encode)


def layout_of(entry: Entry | None, card: Mapping[str, Any], paths: Sequence[str]) -> Layout:
    """Configurations and splits: as the catalog says, as the card says, else as the names of folders and files say."""
    rows = rows_of(paths)
    found: Layout = {}
    for name, files in from_card(card, rows).items():
        found[name] = files
    if entry is not None:
        for name, pattern in entry.configs.items():
            held = matching(pattern, rows)
            if held and name not in found:
                found[name] = {TRAIN: held}
    return found or from_names(rows)


def from_card(card: Mapping[str, Any], rows: Sequence[str]) -> Layout:
    """What the `configs` of a dataset card say. Patterns may be a string, a list, or a list per split."""
    found: Layout = {}
    for config in as_list(card.get("configs")):
        if not isinstance(config, Mapping):
            continue
        splits: dict[str, list[str]] = {}
        for part in as_list(config.get("data_files")):
            by_split = isinstance(part, Mapping)
            split = str(part.get("split", TRAIN)) if by_split else TRAIN
            for pattern in as_list(part.get("path") if by_split else part):
                splits.setdefault(split, []).extend(matching(str(pattern), rows))
        if any(splits.values()):
            found[str(config.get("config_name", DEFAULT))] = {name: held for name, held in splits.items() if held}
    return found


def as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def from_names(rows: Sequence[str]) -> Layout:
    """`config/split-00000-of-00002.parquet`, `data/train-….parquet`, `config/train/0000.parquet`; what says no split
    is `train`, what lies in no folder of its own is `default`."""
    found: Layout = {}
    for path in rows:
        folders, _, name = path.rpartition("/")
        numbered = NUMBERED.match(name)
        word = SPLIT_WORD.search(path)
        split = numbered[1] if numbered else SPLIT_NAMES.get(word[1], word[1]) if word else TRAIN
        parts = [part for part in folders.split("/") if part and part not in ("data", split)]
        config = parts[0] if parts and not SPLIT_WORD.fullmatch(parts[0]) else DEFAULT
        found.setdefault(config, {}).setdefault(split, []).append(path)
    return found


def choose(
    spec: str, entry: Entry | None, layout: Layout, config: str | None, split: str | None, rows: Mapping[str, int]
) -> Chosen:
    """The configuration and split that are meant. `rows`: how many rows a split has, where the card says so.

    Raises UsageError naming the candidates, MissingError where there is no file of rows at all.
    """
    if not layout:
        raise MissingError(f"{spec}: no parquet or jsonl files in it", hint="give a data set with rows of text")
    config = choose_config(spec, entry, layout, config)
    splits = layout[config]
    only = next(iter(splits)) if len(splits) == 1 else None
    wanted = split or next((name for name in splits if name.startswith(TRAIN)), only)
    if wanted in splits and wanted is not None:
        return Chosen(config, wanted, tuple(sorted(splits[wanted], key=str.encode)))
    there = ", ".join(f"{name} {rows[name]:,} rows" if name in rows else name for name in splits)
    close = get_close_matches(wanted, splits, 1, 0.3) if wanted else []
    mean = f'; did you mean "{close[0]}"?' if close else ";"
    raise UsageError(f'{spec}: no split "{wanted or TRAIN}"{mean} ({there})', hint="choose --dataset-split")


def choose_config(spec: str, entry: Entry | None, layout: Layout, config: str | None) -> str:
    config = config or (entry.default_config if entry else None)
    if config is None:
        if len(layout) == 1:
            return next(iter(layout))
        if DEFAULT in layout:
            return DEFAULT
        raise UsageError(
            f"{spec} has {len(layout)} configs: {shown(layout)}", hint=f"picollm … {spec} --dataset-config NAME"
        )
    if config not in layout:
        close = get_close_matches(config, layout, 1)
        mean = f'; did you mean "{close[0]}"?' if close else ""
        raise UsageError(
            f'{spec}: no config "{config}"{mean}; there are {shown(layout)}', hint="choose --dataset-config"
        )
    return config


def shown(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    listed = list(names)
    more = f", … ({len(listed)} in all)" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more


def check_names(repo: str, paths: Sequence[str]) -> None:
    """Refuse names that could leave the folder, or that a file system would confuse. Raises SourceError."""
    for path in paths:
        for part in path.split("/"):
            if part in ("", ".", "..") or not PART.fullmatch(part) or len(part) > LONGEST_PART or part != part.strip():
                raise SourceError(
                    f"{repo}: a file has a name that is not safe to write: {path!r:.300}",
                    hint="choose another --dataset-config, or fetch the files yourself and give their folder",
                )
    twins = len(paths) - len({path.lower() for path in paths})
    if twins:
        raise SourceError(f"{repo}: {twins} file names differ only in upper and lower case")
