"""`picollm tok`: train a tokenizer, and use one as a filter."""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from picollm.cli.live import LiveLine
from picollm.cli.options import BYTES, COUNT, OF_THE_CORPUS
from picollm.cli.places import find_tokenizer
from picollm.errors import CheckError, UsageError
from picollm.layout import Layout

if TYPE_CHECKING:
    from picollm.corpus.source import Source
    from picollm.tok.tokenizer import Tokenizer

DEFAULT_SOURCE = "fineweb-edu"
DEFAULT_VOCAB = 65_536
DEFAULT_MAX_CHARS = 2 * 10**9  # decision 28
DEFAULT_MAX_RAM = 2 * 2**30  # decision 22
SCHEMA = "picollm.tok/1"


@click.group()
def command() -> None:
    """Train a tokenizer, or use one."""


# What a manifest says of itself that was written before there was such an option.
UNNAMED = {"max_ram": DEFAULT_MAX_RAM}


@command.command()
@click.argument("source", required=False)
@click.option("--dataset-name", "--dataset", help=f"The same as SOURCE.  [default: {DEFAULT_SOURCE}]")
@click.option("--vocab-size", type=COUNT, default=DEFAULT_VOCAB, show_default=True, help="Bytes and specials included.")
@click.option("--pattern", type=click.Choice(["picollm", "cl100k", "gpt2"]), default="picollm", show_default=True)
@click.option("--ties", type=click.Choice(["rustbpe", "huggingface"]), default="rustbpe", show_default=True)
@click.option(
    "--max-chars", type=COUNT, default=DEFAULT_MAX_CHARS, show_default="2e9", help="Stop reading after these."
)
@click.option(
    "--max-ram", type=BYTES, default=DEFAULT_MAX_RAM, show_default="2G", help="Memory to stay under; says what it did."
)
@click.option("--dataset-config", help="Configuration of a Hub data set.")
@click.option("--dataset-split", help="Split of a Hub data set.")
@click.option("--revision", help="Branch, tag or commit of a Hub data set.")
@click.option("--text-column", help="Column or key that holds the text.")
@click.option("--doc-sep", help="What separates documents inside text files.")
@click.option("--bad-utf8", type=click.Choice(["error", "skip", "replace"]), default="error", show_default=True)
@click.option("--on-bad-file", type=click.Choice(["error", "skip"]), default="error", show_default=True)
@click.option("--out", "-o", type=click.Path(path_type=Path), help="Folder to write.  [default: tokenizers/NAME-SIZE]")
@click.option("--workers", type=click.IntRange(1), help="Threads.  [default: all cores]")
@click.option("--dry-run", is_flag=True, help="Say what it would take, from a sample, and stop.")
def train(
    source: str | None,
    dataset_name: str | None,
    vocab_size: int,
    out: Path | None,
    workers: int | None,
    dry_run: bool,
    **options: Any,
) -> None:
    """Learn a byte-level BPE vocabulary from SOURCE: an alias (stdlib, fineweb-edu), a path or pattern, or owner/name.

    Files of the Hub are fetched whole, in order, until --max-chars are read; they stay in the cache folder, where
    `picollm shard` finds them.
    """
    if source and dataset_name and source != dataset_name:
        raise UsageError(f"two sources: {source} and --dataset-name {dataset_name}", hint="give one of them")
    from picollm.cli.corpora import hub_name, known_from, on_the_hub, open_corpus, say_fetch
    from picollm.tok.tokenizer import MANIFEST
    from picollm.tok.train import CHARS_PER_TOKEN, check_vocab_size, request_of, train_tokenizer

    check_vocab_size(vocab_size)
    spec = source or dataset_name or DEFAULT_SOURCE
    tokenizers = Layout.from_env().tokenizers
    if out is None and on_the_hub(spec):
        out = tokenizers / f"{hub_name(spec)}-{vocab_size}"
    known = known_from(out / MANIFEST, "corpus", "read") if out else None
    corpus = open_corpus(spec, known, **{name: options.pop(name) for name in OF_THE_CORPUS})
    for warning in corpus.warnings:
        click.echo(f"warning: {warning}", err=True)
    folder = out or tokenizers / f"{corpus.name}-{vocab_size}"
    if dry_run:
        say_fetch(corpus, spec, "them", corpus.root, int(options["max_chars"] / CHARS_PER_TOKEN), None)
        say_forecast(corpus, vocab_size, workers or os.cpu_count() or 1, options)
        return
    corpus = corpus.hashed(workers or os.cpu_count() or 1)
    if already_there(folder, request_of(corpus, vocab_size, **options)):
        return
    say_fetch(corpus, spec, "them", corpus.root, int(options["max_chars"] / CHARS_PER_TOKEN), None)
    line = LiveLine()
    try:
        progress = progress_line(line, vocab_size, options["max_chars"])
        made = train_tokenizer(corpus, vocab_size, workers=workers, progress=progress, **options)
    finally:
        line.close()
    made.save(folder)
    say_trained(made, folder)


def already_there(folder: Path, request: Mapping[str, Any]) -> bool:
    """True, said aloud, if `folder` holds what was asked for. Raises CheckError if it holds something else."""
    from picollm.tok.tokenizer import FILE, MANIFEST, Tokenizer

    if not (folder / FILE).exists():
        return False
    found = Tokenizer.load(folder)
    try:
        made = json.loads((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        made = {}  # brought here by hand
    except ValueError as error:
        raise CheckError(
            f"{folder / MANIFEST}: damaged: {error}", hint="delete the folder, or name another: --out DIR"
        ) from error
    said = {**UNNAMED, **made} if isinstance(made, dict) else {}
    differs = [name for name, value in request.items() if said.get(name) != value]
    if differs or said.get("fingerprint") != found.fingerprint:
        raise CheckError(
            f"{folder} holds another tokenizer, {found.fingerprint[:12]} ({found.vocab_size:,} tokens); "
            f"different: {', '.join(differs) or 'its own manifest'}",
            hint="keep both: --out DIR; or delete that folder",
        )
    click.echo(f"{folder} is already there and the same: {found.vocab_size:,} tokens, {found.fingerprint[:12]}")
    return True


def say_forecast(corpus: "Source", vocab_size: int, workers: int, options: Mapping[str, Any]) -> None:
    """What a training would take; of a corpus that is not here yet only where a sample would come from."""
    from picollm.tok.forecast import forecast

    pattern, max_chars, max_ram = options["pattern"], options["max_chars"], options["max_ram"]
    seen = forecast(corpus, vocab_size, pattern=pattern, max_chars=max_chars, workers=workers)
    if seen is None:
        click.echo(f"time and memory are told from a sample, and no file of it is in {corpus.root} yet")
        return
    click.echo(
        f"would read about {seen.bytes / 1e6:,.1f} MB of text, {seen.segments:,} segments; "
        f"sampled {seen.sampled_segments} of them, {seen.sampled_bytes / 1e6:,.1f} MB"
    )
    rate = seen.bytes / 1e6 / max(1e-3, seen.read_seconds)
    click.echo(
        f"about {seen.read_seconds + seen.merge_seconds:,.1f} s on {workers} threads: {seen.read_seconds:,.1f} s "
        f"to read and count ({rate:,.0f} MB/s), {seen.merge_seconds:,.1f} s to merge"
    )
    over = "; counts would go to temporary files, and the rarest pieces be left out" if seen.memory > max_ram else ""
    click.echo(
        f"about {seen.distinct_pieces:,} distinct pieces, {seen.memory / 1e6:,.0f} MB of memory beside "
        f"{memory_in_use()} now; --max-ram is {max_ram / 1e6:,.0f} MB{over}"
    )


def progress_line(line: LiveLine, vocab_size: int, max_chars: int | None = None) -> Callable[[Mapping[str, int]], None]:
    """Show the counters of a training: first the reading, then the merges, each with % and what is left of it."""
    start = time.monotonic()
    merging: list[float] = []

    def show(seen: Mapping[str, int]) -> None:
        now = time.monotonic()
        if not seen["tokens"]:
            share = min(1.0, max(seen["done"] / max(1, seen["total"]), seen["bytes"] / (max_chars or math.inf)))
            rate = seen["bytes"] / 1e6 / max(0.001, now - start)
            left = (now - start) * (1 - share) / max(share, 1e-3)
            text = f"{seen['documents']:,} documents · {seen['bytes'] / 1e6:,.1f} MB · {rate:,.0f} MB/s"
            line.show(f"tok  reading {share:4.0%} · {text} · {left:,.0f} s left · {memory_in_use()}")
            return
        merging.append(now)
        share = seen["done"] / max(1, seen["total"])
        left = (now - merging[0]) * (1 - share) / max(share, 1e-3)
        text = f"{seen['tokens']:,} of {vocab_size:,} tokens · {left:,.0f} s left · {memory_in_use()}"
        line.show(f"tok  merging {share:4.0%} · {text}")

    return show


def memory_in_use() -> str:
    """Resident memory of this process, where the system tells."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return "memory unknown"
    return f"{pages * os.sysconf('SC_PAGE_SIZE') / 1e6:,.0f} MB of memory"


def say_trained(made: "Tokenizer", folder: Path) -> None:
    counts = made.made["counts"]
    specials = len(made.specials)
    click.echo(
        f"{made.vocab_size:,} tokens = 256 bytes + {made.vocab_size - 256 - specials:,} merges + {specials} specials; "
        f"max id {made.vocab_size - 1:,} (fits uint16)"
    )
    click.echo(
        f"from {counts['bytes'] / 1e6:,.1f} MB of text, {counts['documents']:,} documents, "
        f"{counts['distinct_pieces']:,} distinct pieces"
    )
    if counts["spilled_runs"]:
        click.echo(f"to stay under --max-ram: counts went through {counts['spilled_runs']} temporary files, none lost")
    if counts["left_out_pieces"]:
        share = counts["left_out_bytes"] / max(1, counts["bytes"])
        click.echo(
            f"to stay under --max-ram: {counts['left_out_pieces']:,} pieces that occur less than "
            f"{counts['left_out_below']} times were left out, {share:.2%} of the text"
        )
    for skipped in made.made["bad_files"]:
        click.echo(f"left out: {skipped}", err=True)
    click.echo(f"{folder}  {made.fingerprint[:12]}")


TOKENIZER = click.option("--tokenizer", "-t", help="Folder or name.  [default: the newest]")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object.")
FILE_ARGUMENT = click.argument("file", type=click.File("rb"), default="-")


def open_tokenizer(said: str | None) -> "Tokenizer":
    """The tokenizer that is meant; one that was not named is printed with its hash (decision 4)."""
    from picollm.tok.tokenizer import Tokenizer

    folder = find_tokenizer(said, Layout.from_env())
    found = Tokenizer.load(folder)
    if said is None:
        click.echo(f"tokenizer {folder}  {found.fingerprint[:12]}", err=True)
    return found


@command.command()
@FILE_ARGUMENT
@TOKENIZER
@AS_JSON
def encode(file: BinaryIO, tokenizer: str | None, as_json: bool) -> None:
    """Bytes of FILE (or standard input) to ids, on one line. `tok decode` is the way back. Any length passes."""
    from picollm.cli import tok_filters

    tok_filters.encode(open_tokenizer(tokenizer), file, SCHEMA if as_json else None)


@command.command()
@FILE_ARGUMENT
@TOKENIZER
@AS_JSON
def decode(file: BinaryIO, tokenizer: str | None, as_json: bool) -> None:
    """Ids in FILE (or standard input), as `tok encode` writes them, to the very bytes they stand for, as they come."""
    from picollm.cli import tok_filters

    tok_filters.decode(open_tokenizer(tokenizer), file, SCHEMA if as_json else None)


@command.command(name="eval")
@click.argument("texts", nargs=-1)
@TOKENIZER
@AS_JSON
def evaluate(texts: tuple[str, ...], tokenizer: str | None, as_json: bool) -> None:
    """Bytes per token by kind of text, beside the known vocabularies that are there.

    TEXTS are files, or NAME=FILE; without any, this Python's library and the data beside the checkout.
    """
    from picollm.cli import tok_files

    tok_files.evaluate(open_tokenizer(tokenizer), texts, as_json)


@command.command()
@click.option("--format", "form", type=click.Choice(["hf", "tiktoken", "picollm"]), default="hf", show_default=True)
@click.option("--out", "-o", type=click.Path(path_type=Path), required=True, help="Folder; for tiktoken a file.")
@TOKENIZER
def export(form: str, out: Path, tokenizer: str | None) -> None:
    """Write the tokenizer for tokenizers and transformers (hf), for tiktoken, or as a folder of ours."""
    from picollm.cli import tok_files

    tok_files.export(open_tokenizer(tokenizer), form, out)


@command.command(name="import")
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@click.option("--pattern", type=click.Choice(["picollm", "cl100k", "gpt2"]), help="How text is split; ranks need it.")
@click.option("--out", "-o", type=click.Path(path_type=Path), required=True, help="Folder to write.")
def bring(path: Path, pattern: str | None, out: Path) -> None:
    """Make a tokenizer's folder of PATH: a tokenizer.json, a folder with one, or tiktoken's ranks."""
    from picollm.cli import tok_files

    tok_files.bring(path, pattern, out)


@command.command()
@FILE_ARGUMENT
@TOKENIZER
def show(file: BinaryIO, tokenizer: str | None) -> None:
    """FILE (or standard input) with a colour behind each token."""
    from picollm.cli import tok_files

    tok_files.show(open_tokenizer(tokenizer), file)
