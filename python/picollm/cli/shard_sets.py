"""`picollm shard stats|sample|pack|unpack|export`: look into a finished set, carry it, hand it to other programs."""

import json
from pathlib import Path

import click

from picollm.cli.shard import command, the_set
from picollm.errors import UsageError
from picollm.layout import Layout
from picollm.plan.render import short
from picollm.shards import export, inspect, lengths, transport

BAR_LETTERS = 40
SAMPLE_SCHEMA = "picollm.shard-sample/1"


@command.command("stats")
@click.argument("folder", metavar="[DIR]", required=False)
@click.option("--max-seq-len", "--block-size", type=click.IntRange(min=1), default=2048, show_default=True)
@click.option("--json", "machine_readable", is_flag=True, help="print one JSON object")
def stats_command(folder: str | None, max_seq_len: int, machine_readable: bool) -> None:
    """Lengths of the documents, and what each packing makes of them."""
    found = lengths.stats(the_set(folder), max_seq_len)
    if machine_readable:
        click.echo(inspect.to_json(found))
        return
    total = found["n_tokens"]
    click.echo(
        f"{found['path']}: {found['n_docs']:,} training documents, {total:,} tokens, "
        f"{found['tokens_beyond_a_row'] / total:.1%} of them past the first {max_seq_len + 1:,} of a document"
    )
    most = max(each["n_tokens"] for each in found["lengths"])
    for each in found["lengths"]:
        bar = "█" * round(BAR_LETTERS * each["n_tokens"] / most)
        span = f"{each['from']:,} to {each['below'] - 1:,}"
        click.echo(f"  {span:>21}  {each['n_docs']:>9,} documents {short(each['n_tokens']):>8} tokens  {bar}")
    for each in found["packing"]:
        row_tokens = each["rows"] * (max_seq_len + 1)
        click.echo(
            f"  {each['packing']:<8} {each['rows']:,} rows: {each['padding_tokens'] / row_tokens:.3%} padding, "
            f"{each['dropped_tokens'] / total:.0%} dropped, {each['inserted_bos'] / row_tokens:.3%} BOS put in; "
            f"{each['cut'] / found['n_docs']:.1%} of the documents cut, "
            f"{each['cut_needlessly'] / found['n_docs']:.1%} though they fit a row"
        )


@command.command("sample")
@click.argument("folder", metavar="[DIR]", required=False)
@click.option("--count", "-n", type=click.IntRange(min=1), default=3, show_default=True, help="documents")
@click.option("--seed", type=int, default=1337, show_default=True, help="which documents")
@click.option("--json", "machine_readable", is_flag=True, help="print one JSON object a line")
def sample_command(folder: str | None, count: int, seed: int, machine_readable: bool) -> None:
    """Print training documents, decoded from their tokens."""
    for name, document, text in inspect.sample(the_set(folder), count, seed):
        if machine_readable:
            fields = {"schema": SAMPLE_SCHEMA, "file": name, "document": document, "text": text}
            click.echo(json.dumps(fields, ensure_ascii=False))
        else:
            visible = "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in text)
            click.echo(f"--- {name}, document {document}")
            click.echo(visible)


@command.command("pack")
@click.argument("folder", metavar="[DIR]", required=False)
@click.option("--out", "-o", type=click.Path(path_type=Path), help="the file; unsaid: NAME.tar here")
def pack_command(folder: str | None, out: Path | None) -> None:
    """One file of a finished set, to carry to a machine without a network."""
    found = the_set(folder)
    target = out or Path(f"{found.resolve().name}.tar")
    shards = transport.pack(found, target)
    click.echo(f"{target}: {target.stat().st_size:,} bytes, {shards.fingerprint}")


@command.command("unpack")
@click.argument("archive", metavar="FILE", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--out", "-o", type=click.Path(path_type=Path), help="folder of the set; unsaid: shards/NAME")
def unpack_command(archive: Path, out: Path | None) -> None:
    """Unpack what `pack` made, and check every byte of it."""
    shards = transport.unpack(archive, out or Layout.from_env().shards / archive.stem)
    click.echo(f"{shards.path}: {shards.train_tokens:,} training tokens, {shards.fingerprint}")


@command.command("export")
@click.argument("folder", metavar="[DIR]", required=False)
@click.option("--to", "reader", type=click.Choice(["megatron"]), help="whose reader")
def export_command(folder: str | None, reader: str | None) -> None:
    """Let another program read the shards as they lie: for Megatron-LM, an .idx beside each .bin."""
    if reader is None:
        raise UsageError("--to is not said", hint="picollm shard export --to megatron")
    for split, blend in export.export_megatron(the_set(folder)).items():
        if blend:
            flag = "--train-data-path" if split == "train" else "--valid-data-path"
            click.echo(f"{flag} {' '.join(blend)}")
    click.echo("do not use Megatron's merge_datasets on these files: it would join their headers in", err=True)
