"""`picollm shard`: a source → uint16 shards; what a set holds; whether it is whole."""

import contextlib
import functools
import hashlib
import importlib
import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NamedTuple

import click

from picollm.cli.corpora import GIB, hub_name, known_from, on_the_hub, open_corpus, say_fetch
from picollm.cli.live import LiveLine
from picollm.cli.options import BYTES, COUNT, COUNT_OR_ALL, OF_THE_CORPUS
from picollm.cli.places import find_tokenizer
from picollm.corpus.source import Source
from picollm.corpus.supply import MAX_DISK, Staging
from picollm.errors import CheckError, MissingError, StoppedError, UsageError
from picollm.layout import Layout
from picollm.plan.render import short
from picollm.plan.request import TrainRequest
from picollm.runtime.pace import duration
from picollm.shards import inspect, tasks
from picollm.shards.build import MAX_RAM, Progress, build, workers_within
from picollm.shards.manifest import ShardSet
from picollm.shards.plan import PLAN
from picollm.train.data import find_shards

PROGRESS = click.Choice(["auto", "plain", "json"])
PROGRESS_SECONDS = 1.0  # between two objects of --progress json
KEPT = "finished segments are kept: run the same command again to go on, or with a smaller --tokens to end here"
RAM_HELP = "bounds the segments at a time: 150M and 48M each; a document past 10 MB takes up to 4 times its length more"
MORE = ("shard_tasks", "shard_sets")  # modules of picollm.cli with the group's other commands


class BuildByDefault(click.Group):
    """`picollm shard SOURCE` is `picollm shard build SOURCE`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for module in MORE:
            importlib.import_module(f"picollm.cli.{module}")
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["build", *args]
        return super().parse_args(ctx, args)


@click.group("shard", cls=BuildByDefault)
def command() -> None:
    """Tokenize a source into shards (`picollm shard SOURCE`); inspect and verify them.

    A folder named like a subcommand is written ./info.
    """


SET_OPTIONS = (
    click.argument("source", required=False),
    click.option("--dataset-name", "--dataset", help="the same as SOURCE"),
    click.option("--dataset-config", help="configuration of a Hub data set"),
    click.option("--dataset-split", help="split of a Hub data set"),
    click.option("--revision", help="branch, tag or commit of a Hub data set; unsaid: main, as it is at the first run"),
    click.option("--tokenizer", help="name or folder; unsaid: the most recently made one"),
    click.option("--out", "-o", type=click.Path(path_type=Path), help="folder of the set; unsaid: shards/NAME"),
    click.option("--text-column", help="column of parquet, key of jsonl"),
    click.option("--doc-sep", help="literal between the documents of a text file; unsaid: a file is a document"),
    click.option("--bad-utf8", type=click.Choice(["error", "skip", "replace"]), default="error", show_default=True),
    click.option("--on-bad-file", type=click.Choice(["error", "skip"]), default="error", show_default=True),
    click.option(
        "--val-ppm", type=int, help="documents per million held out (local files 10,000; Hub 2,000; stdlib 50,000)"
    ),
    click.option("--shard-tokens", type=COUNT, help="tokens per file (a 32nd of the source, within 4M and 100M)"),
    click.option("--dtype", type=click.Choice(["uint16", "uint32"]), help="uint32 only for more than 65,536 ids"),
)


def set_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What is asked of a source and of the set made from it, by `build` and by `plan`."""
    return functools.reduce(lambda inner, option: option(inner), reversed(SET_OPTIONS), command)


class Begun(NamedTuple):
    """What a command about a new set works with: the tokenizer's file, the corpus as it was asked for, the folder."""

    tokenizer: Path
    spec: str
    corpus: Source
    out: Path


def begin(
    source: str | None, dataset_name: str | None, tokenizer: str | None, out: Path | None, options: dict[str, Any]
) -> Begun:
    """Find the tokenizer, open the corpus and name the folder; what the corpus takes is taken from `options`."""
    spec = which_source(source, dataset_name)
    layout = Layout.from_env()
    chosen = find_tokenizer(tokenizer, layout)
    click.echo(f"tokenizer {chosen.parent} ({hashlib.sha256(chosen.read_bytes()).hexdigest()[:12]})", err=True)
    if out is None and on_the_hub(spec):
        out = layout.shards / hub_name(spec)
    known = known_from(out / PLAN, "source", "options") if out else None
    corpus = open_corpus(spec, known, **{name: options.pop(name) for name in OF_THE_CORPUS})
    for warning in corpus.warnings:
        click.echo(f"warning: {warning}", err=True)
    return Begun(chosen, spec, corpus, out or layout.shards / corpus.name)


@command.command("build")
@set_options
@click.option("--tokens", type=COUNT_OR_ALL, help="stop at the segment that reaches this many training tokens (all)")
@click.option("--workers", type=click.IntRange(min=1), help="segments at a time (the cores there are)")
@click.option("--max-ram", type=BYTES, default=MAX_RAM, show_default="2G", help=RAM_HELP)
@click.option("--max-disk", type=BYTES, default=MAX_DISK, show_default="8G", help="downloaded and not yet encoded")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True)
@click.option("--address", help="the Ray cluster; unsaid: one on this machine, for this job")
@click.option("--progress", "mode", type=PROGRESS, default="auto", show_default=True)
@click.option("--json", "machine_readable", is_flag=True, help="print one JSON object about the set")
@click.option("--dry-run", is_flag=True, help="say what would be done, and stop")
def build_command(
    source: str | None,
    dataset_name: str | None,
    tokenizer: str | None,
    out: Path | None,
    tokens: int | None,
    max_ram: int,
    max_disk: int,
    engine: Literal["local", "ray"],
    address: str | None,
    mode: str,
    machine_readable: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """Tokenize SOURCE: an alias (stdlib, fineweb-edu, …), a path or pattern, or owner/name on the Hub."""
    chosen, spec, corpus, out = begin(source, dataset_name, tokenizer, out, options)
    say_start(corpus, out, tokens)
    say_fetch(corpus, spec, kept(corpus, tokens, options["dtype"]), out, tokens, max_disk)
    if dry_run:
        return
    staging = Staging(max_disk, caches=(corpus.root,) if corpus.remote else ())
    options["workers"] = workers_within(options["workers"], max_ram)
    with stop_politely(), live_progress(mode) as progress:
        if engine == "ray":
            tasks.plan_set(corpus, chosen, out, **options)
            on_ray(out, address=address, threads=options["workers"], staging=Staging(max_disk), progress=progress)
            shards = tasks.finalize_set(out, tokens)
        else:
            shards = build(corpus, chosen, out, tokens=tokens, staging=staging, progress=progress, **options)
    if machine_readable:
        click.echo(inspect.to_json(inspect.info(out)))
    else:
        say_end(shards, tokens)


def on_ray(out: Path, **options: Any) -> int:
    """`run_on_ray`; Ray's module is needed by nobody who did not ask for it."""
    from picollm.shards.engines.ray import run_on_ray

    return run_on_ray(out, **options)


def which_source(source: str | None, dataset_name: str | None) -> str:
    """SOURCE and --dataset-name are one thing. Raises UsageError if they differ or neither is there."""
    if source is not None and dataset_name is not None and source != dataset_name:
        raise UsageError(f"SOURCE is {source} and --dataset-name is {dataset_name}", hint="give one of them")
    if source is None and dataset_name is None:
        raise UsageError("no SOURCE", hint="picollm shard PATH, picollm shard stdlib or picollm shard fineweb-edu")
    return source or dataset_name or ""


def say_start(source: Source, out: Path, tokens: int | None) -> None:
    expected = source.estimated_tokens()
    wanted = "all" if tokens is None else f"{tokens:,}"
    click.echo(
        f"{source.name}: {len(source.files):,} files, {source.size / 1e6:,.1f} MB, about {short(expected)} tokens"
        f" ({wanted} wanted) → {out}",
        err=True,
    )


def kept(source: Source, tokens: int | None, dtype: str | None) -> str:
    """The bytes that will stay: two a token, four as uint32."""
    held = source.estimated_tokens() if tokens is None else min(tokens, source.estimated_tokens())
    return f"about {held * (4 if dtype == 'uint32' else 2) / 1e9:,.2f} GB"


def say_end(shards: ShardSet, tokens: int | None) -> None:
    files = sum(total.n_files for total in shards.totals.values())
    click.echo(
        f"{shards.path}: {shards.train_tokens:,} training and {shards.val_tokens:,} validation tokens, "
        f"{shards.train_documents + shards.val_documents:,} documents, {files} files · {shards.fingerprint[:16]}"
    )
    if tokens is not None and shards.train_tokens < tokens:
        click.echo(f"warning: fewer-tokens: the source holds no more; {tokens:,} were wanted", err=True)
    if shards.val_tokens == 0:
        click.echo("warning: no-validation: `train` refuses this set; raise --val-ppm (in a new --out)", err=True)


@contextlib.contextmanager
def live_progress(mode: str = "auto") -> Iterator[Progress]:
    """Show the counters of the running build: on one line that is wiped at the end, as plain lines, or as JSON."""
    line = LiveLine()
    line.terminal = line.terminal and mode == "auto"
    start = time.monotonic()
    said = start

    def show(counters: Mapping[str, int]) -> None:
        nonlocal said
        now = time.monotonic()
        if mode != "json":
            line.show(progress_text(counters, now - start))
        elif now - said >= PROGRESS_SECONDS or counters["done"] == counters["total"]:
            said = now
            click.echo(json.dumps({"event": "progress", "seconds": round(now - start, 1), **counters}), err=True)

    try:
        yield show
    finally:
        line.close()


def progress_text(counters: Mapping[str, int], seconds: float) -> str:
    """`seg 31/112 · 3.1 B tok · 41.2 M tok/s · 120 MB/s · net 112 MB/s · staging 5.9/8.0 GiB · ETA 3m10s`."""
    done, total = counters["done"], counters["total"]
    rate, text = (counters[name] / max(seconds, 1e-3) for name in ("tokens", "bytes"))
    eta = f" · ETA {duration(seconds / done * (total - done))}" if 0 < done < total else ""
    net = ""
    if "fetched" in counters:
        staged, budget = counters["staged"] / GIB, counters["budget"] / GIB
        net = (
            f" · net {counters['fetched'] / 1e6 / max(seconds, 1e-3):.1f} MB/s · staging {staged:.1f}/{budget:.1f} GiB"
        )
    speed = f"{short(rate)} tok/s · {text / 1e6:.1f} MB/s"
    return f"seg {done}/{total} · {short(counters['tokens'])} tok · {speed}{net}{eta}"


class Asked(BaseException):
    """A signal came. Not an Exception: it may strike inside any library, where `except Exception` would lose it."""


@contextlib.contextmanager
def stop_politely() -> Iterator[None]:
    """SIGINT and SIGTERM end the build within two seconds: exit 130 or 143, finished segments kept.

    A second signal ends it at once; what that leaves in the making is removed by the next run.
    """
    numbers = {signal.SIGINT: ("interrupted", 130), signal.SIGTERM: ("stopped by SIGTERM", 143)}

    def stop(number: int, frame: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_DFL)
        raise Asked(signal.Signals(number))

    former = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    except Asked as asked:
        what, code = numbers[asked.args[0]]
        raise StoppedError(what, exit_code=code, hint=KEPT) from None
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def the_set(said: str | None) -> Path:
    """The folder of the set that is meant (decision 4). Raises MissingError."""
    layout = Layout.from_env()
    found = find_shards(TrainRequest(shards=said), layout)
    if found is None:
        raise MissingError(f"no shard set {said or ''} in {layout.shards}", hint="picollm shard SOURCE")
    return found


@command.command("info")
@click.argument("folder", metavar="[DIR]", required=False)
@click.option("--json", "machine_readable", is_flag=True, help="print one JSON object")
def info_command(folder: str | None, machine_readable: bool) -> None:
    """What a shard set holds and where it comes from."""
    facts = inspect.info(the_set(folder))
    if machine_readable:
        click.echo(inspect.to_json(facts))
        return
    source, tokenizer = facts["source"], facts["tokenizer"]
    click.echo(f"{facts['path']}: {facts['name']}, {facts['dtype']}, fingerprint {facts['fingerprint']}")
    click.echo(
        f"  source     {source['name']} ({source['kind']}): {source['files']:,} files, {source['bytes']:,} bytes"
    )
    click.echo(f"  tokenizer  {tokenizer['vocab_size']:,} ids, {tokenizer['sha256']}")
    for split, total in facts["splits"].items():
        lengths = ", ".join(f"{name} {value:,}" for name, value in total["lengths"].items())
        click.echo(
            f"  {split:<9}  {total['n_tokens']:,} tokens in {total['n_docs']:,} documents and {total['n_files']} files;"
            f" {total['utf8_bytes']:,} bytes of text" + (f"; tokens per document: {lengths}" if lengths else "")
        )
    skipped = ", ".join(f"{name} {value}" for name, value in facts["skipped"].items() if value)
    click.echo(f"  skipped    {skipped or 'nothing'}")
    click.echo(f"  options    {', '.join(f'{name} {value}' for name, value in facts['options'].items())}")


@command.command("verify")
@click.argument("folder", metavar="[DIR]", required=False)
@click.option("--json", "machine_readable", is_flag=True, help="print one JSON object")
def verify_command(folder: str | None, machine_readable: bool) -> None:
    """Read every byte of a shard set and check it. Exit 3 if a file is not what it should be."""
    found = inspect.verify(the_set(folder))
    if machine_readable:
        click.echo(inspect.to_json(found.plain()))
    elif not found.faults:
        click.echo(f"{found.files} shards OK ({found.tokens:,} tokens, {found.payload_bytes / 1e6:,.1f} MB)")
    if found.faults:
        raise CheckError(
            "; ".join(found.faults),
            hint="delete the damaged files and run the picollm shard command of this set again",
        )
