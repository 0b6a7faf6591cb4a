"""`picollm data`: what a corpus is, and what its first rows look like, before hours of work."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from picollm.cli.colour import show
from picollm.cli.corpora import on_the_hub
from picollm.cli.options import COUNT
from picollm.cli.places import find_tokenizer
from picollm.corpus.source import ReadOptions, Source, open_source
from picollm.errors import CheckError, SourceError, UsageError
from picollm.layout import Layout, cache_dir

if TYPE_CHECKING:
    from picollm.corpus.peek import Head
    from picollm.tok.tokenizer import Tokenizer

SHOWN_CHARACTERS = 500
SCHEMA = "picollm.data-peek/1"
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
TRAINED, READ = "green", "bright_black"


@click.group("data")
def command() -> None:
    """What a data set is (info), and its first rows (peek). Nothing large is fetched."""


SOURCE = click.argument("source")
CONFIG = click.option("--dataset-config", help="configuration of a Hub data set")
SPLIT = click.option("--dataset-split", help="split of a Hub data set")
REVISION = click.option("--revision", help="branch, tag or commit of a Hub data set")
AS_JSON = click.option("--json", "machine_readable", is_flag=True, help="print one JSON object")


@command.command("info")
@SOURCE
@CONFIG
@SPLIT
@REVISION
@AS_JSON
def info_command(
    source: str, dataset_config: str | None, dataset_split: str | None, revision: str | None, machine_readable: bool
) -> None:
    """Where SOURCE lies, its licence, kind, columns, configurations, splits and sizes."""
    from picollm.corpus import about
    from picollm.corpus.hub import Asked

    if on_the_hub(source):
        asked = Asked(source, dataset_config, dataset_split, revision)
        show(about.about_dataset(asked, cache_dir()), machine_readable=machine_readable)
    else:
        show(about.about_local(here(source)), machine_readable=machine_readable)


def here(spec: str) -> Source:
    """A corpus on this machine, its text column not yet settled: rows of any kind may be looked at."""
    try:
        return open_source(spec)
    except UsageError:
        from picollm.corpus import local
        from picollm.corpus.source import listed

        found = local.find(spec)
        return Source(Path(spec).name, "local", found.root, listed(found), ReadOptions(), 0)


@command.command("peek")
@SOURCE
@CONFIG
@SPLIT
@REVISION
@click.option("--text-column", help="column or key to show; unsaid: the one that would be read")
@click.option("--sample", type=COUNT, default=3, show_default=True, help="rows to show")
@click.option("--rendered", is_flag=True, help="conversations as the tokens that training sees, with the loss mask")
@click.option("--chat-format", type=click.Choice(["auto", "roles", "plain"]), default="auto", show_default=True)
@click.option("--tokenizer", help="name or folder, for --rendered; unsaid: the newest")
@AS_JSON
def peek_command(
    source: str,
    dataset_config: str | None,
    dataset_split: str | None,
    revision: str | None,
    text_column: str | None,
    sample: int,
    rendered: bool,
    chat_format: Literal["auto", "roles", "plain"],
    tokenizer: str | None,
    machine_readable: bool,
) -> None:
    """The first rows of SOURCE; `--rendered`: the chats among them as ids, roles and loss mask (green: trained on)."""
    from picollm.corpus import about, peek
    from picollm.corpus.hub import Asked, Hub

    if on_the_hub(source):
        asked = Asked(source, dataset_config, dataset_split, revision)
        corpus = about.unhashed(asked, Hub.connect().dataset(asked), cache_dir())
    else:
        corpus = here(source)
    found = peek.head(corpus)
    if not found.rows:
        raise SourceError(f"{source}: not one row in it")
    turns = found.chat_column() if chat_format != "plain" and text_column is None else None
    if chat_format == "roles" and turns is None:
        click.echo("W104 no alternating turns in these rows", err=True)
    if turns and (rendered or chat_format == "roles"):
        show_rendered(found, turns, sample, tokenizer, machine_readable)
    else:
        column = text_column or turns or column_of(found)
        show_rows(found, column, sample, machine_readable, as_text=column != turns)


def column_of(found: "Head") -> str:
    """The column that would be read as text."""
    from picollm.corpus.peek import TEXT_COLUMNS

    for name in TEXT_COLUMNS:
        if name in found.columns:
            return name
    strings = [name for name, kind in found.columns.items() if "string" in kind]
    return strings[0] if strings else next(iter(found.columns))


def show_rows(found: "Head", column: str, sample: int, machine_readable: bool, *, as_text: bool) -> None:
    """The first values of a column, then what is doubtful about it as text. Raises UsageError listing the columns."""
    from picollm.corpus.peek import metadata_doubts

    listed = ", ".join(f"{name} ({kind})" for name, kind in found.columns.items())
    if column not in found.columns:
        raise UsageError(f'{found.path}: no column "{column}"; columns: {listed}', hint="choose --text-column")
    values = [row.get(column) for row in found.rows]
    doubts = metadata_doubts(column, found.rows) if as_text else []
    if machine_readable:
        said = {"schema": SCHEMA, "file": found.path, "columns": dict(found.columns), "column": column}
        click.echo(json.dumps({**said, "rows": values[:sample], "warnings": doubts}, ensure_ascii=False, default=str))
    else:
        click.echo(f"{found.path}: {listed}")
        for number, value in enumerate(values[:sample]):
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            more = f" … ({len(text):,} characters)" if len(text) > SHOWN_CHARACTERS else ""
            click.echo(f"--- {column}, row {number}\n{escaped(text[:SHOWN_CHARACTERS])}{more}")
    for doubt in doubts:
        click.echo(doubt, err=True)


def show_rendered(found: "Head", column: str, sample: int, tokenizer: str | None, machine_readable: bool) -> None:
    """Conversations as training sees them."""
    from picollm.conversation import Conversation, render
    from picollm.tok.tokenizer import Tokenizer

    coder = Tokenizer.load(find_tokenizer(tokenizer, Layout.from_env()))
    for number, row in enumerate(found.rows[:sample]):
        try:
            chat = Conversation.from_json([as_message(turn) for turn in row[column]])
        except CheckError as error:
            click.echo(f"W104 no alternating turns in row {number}: {error.message}", err=True)
            continue
        said = render(chat, coder)
        if machine_readable:
            click.echo(json.dumps({"schema": SCHEMA, "row": number, "ids": said.ids, "mask": said.mask}))
            continue
        trained = sum(said.mask)
        click.echo(f"--- row {number}: {len(said.ids)} tokens, {trained} trained on (1 = trained on)")
        for id, mask in zip(said.ids, said.mask, strict=True):
            click.echo(click.style(f"{mask} {id:>6} {piece(coder, id)}", fg=TRAINED if mask else READ))


def as_message(turn: Mapping[str, Any]) -> dict[str, Any]:
    """A turn in the common form, `{"role", "content"}`; `{"from", "value"}` is the other usual one."""
    role = str(turn.get("role", turn.get("from")))
    return {"role": ROLES.get(role, role), "content": turn.get("content", turn.get("value"))}


def piece(coder: "Tokenizer", id: int) -> str:
    """A token as text: specials by name, others quoted."""
    names = {number: name for name, number in coder.specials.items()}
    return names.get(id) or repr(coder.token_bytes(id).decode("utf-8", "backslashreplace"))


def escaped(text: str) -> str:
    """Text of strangers, safe for a terminal: control characters but line ends and tabs are shown as escapes."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else repr(letter)[1:-1] for letter in text)
