"""What a corpus is, before anything large is fetched: where it lies, its configurations, splits, columns and kind."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picollm.corpus import listing
from picollm.corpus.hub import KIND, Asked, Dataset, Hub, Shelf, cache_folder, licence_of, rows_by_split
from picollm.corpus.peek import CHAT_COLUMNS, Head, head
from picollm.corpus.source import Source, SourceFile

SCHEMA = "picollm.data-info/1"
KINDS = {"text": "plain text → base pretraining", "chat": "chat, roles → SFT"}


@dataclass(frozen=True)
class Part:
    """A split of a configuration. `rows` None: nobody says."""

    config: str
    split: str
    files: int
    size: int
    rows: int | None = None


@dataclass(frozen=True)
class About:
    """`place`: repository and commit, or a path. `default`: the configuration that is taken where none is named."""

    name: str
    place: str
    revision: str | None
    licence: str
    kind: str
    columns: Mapping[str, str]
    parts: tuple[Part, ...]
    default: str | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            **{name: value for name, value in vars(self).items() if name != "parts"},
            "parts": [vars(part) for part in self.parts],
        }

    def render(self) -> str:
        """For people."""
        at = f" @ {self.revision}" if self.revision else ""
        lines = [f"{self.name}: {self.place}{at}", f"  kind      {KINDS[self.kind]}", f"  licence   {self.licence}"]
        if self.note:
            lines.append(f"  note      {self.note}")
        columns = " · ".join(f"{name} {kind}" for name, kind in self.columns.items())
        lines.append(f"  columns   {columns or 'none: files of text'}")
        shown = self.parts[:40]
        wide = max((len(part.config) for part in shown), default=0)
        for part in shown:
            rows = f", {part.rows:,} rows" if part.rows is not None else ""
            mark = " (default)" if part.config == self.default else ""
            size = f"{part.files:,} files, {part.size / 1e9:,.3f} GB{rows}"
            lines.append(f"  {part.config:<{wide}}  {part.split:<10}  {size}{mark}")
        if len(self.parts) > len(shown):
            lines.append(f"  … {len(self.parts) - len(shown)} more")
        return "\n".join(lines) + "\n"


def kind_of(found: Head) -> str:
    """`chat` where a column holds turns, else `text`."""
    return "chat" if found.chat_column() or any(name in found.columns for name in CHAT_COLUMNS) else "text"


def about_local(source: Source) -> About:
    """A corpus on this machine."""
    found = head(source)
    part = Part(listing.DEFAULT, listing.TRAIN, len(source.files), source.size)
    kind = kind_of(found)
    return About(source.name, str(source.root), source.build, source.licence, kind, found.columns, (part,))


def about_dataset(asked: Asked, cache: Path) -> About:
    """A data set of the Hub: one request for its card, one for every thousand entries, a few for the first rows."""
    hub, entry = Hub.connect(), asked.entry
    commit, card = hub.info(asked.repo, asked.revision)
    files = hub.files(asked.repo, commit)
    if not listing.rows_of(files) and asked.revision is None:
        commit, files = hub.converted(asked.repo, commit)
    layout = listing.layout_of(entry, card, list(files))
    parts = tuple(
        Part(config, split, len(paths), sum(files[path].size for path in paths), rows_by_split(card, config).get(split))
        for config, splits in layout.items()
        for split, paths in splits.items()
        if asked.config in (None, config)
    )
    default = asked.config or (entry.default_config if entry else None)
    first = layout.get(default or "") or next(iter(layout.values()))
    paths = first.get(asked.split or listing.TRAIN) or next(iter(first.values()))
    dataset = Dataset(asked.repo, commit, card, default or "", "", tuple(files[path] for path in paths), layout)
    found = head(unhashed(asked, dataset, cache))
    licence = entry.licence if entry else licence_of(card)
    note = entry.note if entry else ""
    kind = kind_of(found)
    return About(asked.name, asked.repo, commit, licence, kind, found.columns, parts, default, note)


def unhashed(asked: Asked, dataset: Dataset, cache: Path) -> Source:
    """The files of a data set for a look at their first rows, no hashes asked."""
    files = tuple(SourceFile(file.path, file.size) for file in dataset.files)
    origin = (("repo", dataset.repo), ("revision", dataset.commit))
    root = cache_folder(cache, dataset.repo)
    shelf = Shelf(Hub.connect(), dataset.repo, dataset.commit)
    return Source(asked.name, KIND, root, files, asked.read, 0, origin=origin, remote=shelf)
