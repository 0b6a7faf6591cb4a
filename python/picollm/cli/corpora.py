"""Which corpus a name means, here or on the Hub, and what fetching it will take, said before the first byte."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from picollm.cli.places import free_bytes
from picollm.corpus import local
from picollm.corpus.catalog import CATALOG, STDLIB
from picollm.corpus.source import HUB_ID, ReadOptions, Source, estimated_tokens, open_source
from picollm.errors import DiskFullError, UsageError
from picollm.layout import cache_dir

if TYPE_CHECKING:
    from picollm.corpus.hub import Asked

GB = 10**9
GIB = 2**30
W101 = "W101 chat data in a base-pretraining shard: roles become plain text"


def on_the_hub(spec: str) -> bool:
    """An alias of the catalog, or owner/name where no such path is here."""
    return spec in CATALOG or (spec != STDLIB and not local.exists(spec) and HUB_ID.fullmatch(spec) is not None)


def hub_name(spec: str) -> str:
    """The name of a corpus of the Hub (decision 3)."""
    return spec if spec in CATALOG else spec.rpartition("/")[2]


def known_from(file: Path, source: str, reading: str) -> tuple[Mapping[str, Any], str | None] | None:
    """What a plan or a tokenizer's manifest says of its corpus: the source, and its text column."""
    try:
        body = json.loads(file.read_bytes())
        return body[source], body[reading].get("text_column")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # not there or damaged: whoever uses the file says so


def open_corpus(
    spec: str,
    known: tuple[Mapping[str, Any], str | None] | None = None,
    *,
    dataset_config: str | None = None,
    dataset_split: str | None = None,
    revision: str | None = None,
    **reading: Any,
) -> Source:
    """The corpus that `spec` means. `known`: what an unfinished job there says of its corpus; if the same is asked
    again, the Hub is not: the commit stays the one it was."""
    if not on_the_hub(spec):
        if revision is not None:
            raise UsageError(f"--revision {revision}: {spec} has none; that is for data sets of the Hub")
        return open_source(spec, dataset_config=dataset_config, dataset_split=dataset_split, **reading)
    from picollm.corpus import hub

    asked = hub.Asked(spec, dataset_config, dataset_split, revision, ReadOptions(**reading))
    refuse_chats(asked)
    if known is not None:
        source = hub.pinned(*known, asked, cache_dir())
        if source is not None:
            return source
    try:
        source = hub.open_dataset(asked, cache_dir())
    except hub.NoRowsError as found:
        from picollm.corpus import streamed

        source = streamed.open_streamed(asked, found, cache_dir())
    if asked.entry is None or asked.read.text_column is not None:
        from picollm.corpus import peek

        source = peek.settle_column(source)
    return source


def refuse_chats(asked: "Asked") -> None:
    """Conversations are not documents. A split that was named is looked up first, so that a wrong one is seen."""
    if asked.entry is None or asked.entry.kind != "chat":
        return
    if asked.config or asked.split:
        from picollm.corpus.hub import Hub

        Hub.connect().dataset(asked)
    raise UsageError(W101, hint=f"picollm sft --dataset-name {asked.spec}")


def bytes_ahead(source: Source, tokens: int | None) -> tuple[int, int]:
    """(files, bytes) that hold so many tokens, by estimate: what will be fetched."""
    count = size = held = 0
    for file in source.files:
        if tokens is not None and held >= tokens:
            break
        held += estimated_tokens(file, source.centibytes)
        count, size = count + 1, size + file.size
    return count, size


def say_fetch(source: Source, spec: str, keep: str, folder: Path, tokens: int | None, staged: int | None) -> None:
    """What will be fetched, kept and is free, and the line for less. `staged`: the most that waits on disk; None: what
    is fetched stays, and must fit. Nothing for a corpus that is here."""
    if source.remote is None:
        return
    origin = dict(source.origin)
    count, size = bytes_ahead(source, tokens)
    free = free_bytes(folder)
    waits = "" if staged is None else f"; at most {staged / GIB:.1f} GiB of downloads wait on disk"
    click.echo(
        f"{origin['repo']}@{origin['revision'][:12]}, {origin['config']}, {origin['split']}: fetch {count:,} of "
        f"{len(source.files):,} files, {size / GB:,.2f} GB; keep {keep} in {folder}; {free / GB:,.1f} GB free{waits}",
        err=True,
    )
    click.echo(f"licence {source.licence}", err=True)
    less = CATALOG[spec].less if spec in CATALOG and tokens is None else ""
    if less or tokens is None:
        click.echo(f"for less: {less or f'--tokens N fetches only the files that hold N tokens ({spec})'}", err=True)
    if staged is None and size > free:
        raise DiskFullError(
            f"{folder}: about {size / GB:.2f} GB are fetched, {free / GB:.2f} GB are free",
            hint="free some space, or name another cache: PICOLLM_CACHE=DIR",
        )
