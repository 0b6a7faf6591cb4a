"""`picollm shard plan|run|finalize|status`: one set, made in shares."""

import json
from pathlib import Path
from typing import Any, Literal

import click

from picollm.cli.corpora import say_fetch
from picollm.cli.options import BYTES, COUNT_OR_ALL
from picollm.cli.shard import (
    PROGRESS,
    RAM_HELP,
    begin,
    command,
    kept,
    live_progress,
    on_ray,
    say_end,
    set_options,
    stop_politely,
)
from picollm.corpus.supply import MAX_DISK, Staging
from picollm.errors import UsageError
from picollm.plan.render import short
from picollm.shards import tasks
from picollm.shards.build import MAX_RAM, workers_within
from picollm.shards.engines import slurm

FOLDER = click.Path(path_type=Path, file_okay=False)
MOST_NAMED = 12  # missing segments that `status` writes out


@command.command("plan")
@set_options
@click.option("--workers", type=click.IntRange(min=1), help="files read at a time; for --emit, cores of a task")
@click.option("--emit", type=click.Choice(["slurm", "ray"]), help="print what runs the plan there")
@click.option("--tasks", "count", type=click.IntRange(min=1), help="tasks of the array (one per segment)")
@click.option("--at-once", type=click.IntRange(min=1), default=32, show_default=True, help="tasks running at a time")
@click.option("--tokens", type=COUNT_OR_ALL, help="training tokens that `finalize` asks for (all)")
def plan_command(
    source: str | None,
    dataset_name: str | None,
    tokenizer: str | None,
    out: Path | None,
    emit: Literal["slurm", "ray"] | None,
    count: int | None,
    at_once: int,
    tokens: int | None,
    **options: Any,
) -> None:
    """Freeze the segments of SOURCE in a folder; `run` makes them, on any number of machines, `finalize` ends."""
    chosen, spec, corpus, out = begin(source, dataset_name, tokenizer, out, options)
    say_fetch(corpus, spec, kept(corpus, tokens, options["dtype"]), out, tokens, MAX_DISK)
    with stop_politely():
        plan = tasks.plan_set(corpus, chosen, out, **options)
    segments = len(plan.body["segments"])
    click.echo(f"{out}: {segments:,} segments of {corpus.name}, {plan.hash}", err=emit is not None)
    if emit == "slurm":
        cpus = options["workers"] or 8
        click.echo(slurm.script(out, segments, tasks=count, at_once=at_once, cpus=cpus, tokens=tokens), nl=False)
    elif emit == "ray":
        click.echo(
            'ray job submit --address "$RAY_ADDRESS" --runtime-env-json \'{"pip": ["picollm-train[ray]"]}\' -- '
            f"picollm shard run {out.absolute()} --engine ray --address auto"
        )


@command.command("run")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--task", "which", metavar="i/N", help="share i of N, from 0/N to N-1/N; unsaid: everything")
@click.option("--root", type=FOLDER, help="where the source lies here; unsaid: where it lay when it was planned")
@click.option("--workers", type=click.IntRange(min=1), help="segments at a time (the cores there are)")
@click.option("--max-ram", type=BYTES, default=MAX_RAM, show_default="2G", help=RAM_HELP)
@click.option("--max-disk", type=BYTES, default=MAX_DISK, show_default="8G", help="downloaded and not yet encoded")
@click.option("--staging", type=FOLDER, help="where downloads wait, such as a node's own disk; unsaid: in DIR")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True)
@click.option("--address", help="the Ray cluster; unsaid: one on this machine, for this job")
@click.option("--progress", "mode", type=PROGRESS, default="auto", show_default=True)
def run_command(
    folder: Path,
    which: str | None,
    root: Path | None,
    workers: int | None,
    max_ram: int,
    max_disk: int,
    staging: Path | None,
    engine: Literal["local", "ray"],
    address: str | None,
    mode: str,
) -> None:
    """Make segments of the plan in DIR. Repeat it after a failure; shares may overlap."""
    task = None if which is None else tasks.Task.parse(which)
    if task is not None and engine != "local":
        raise UsageError("--task shares the work out by itself", hint="leave --task out, or --engine ray")
    threads = workers_within(workers, max_ram)
    where = Staging(max_disk, staging)
    with stop_politely(), live_progress(mode) as progress:
        if engine == "ray":
            made = on_ray(folder, address=address, root=root, threads=threads, staging=where, progress=progress)
        else:
            made = tasks.run_task(folder, task, root=root, workers=threads, staging=where, progress=progress)
    click.echo(f"{folder}: {made} segments made" + (f" by task {which}" if which else ""))


@command.command("finalize")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--tokens", type=COUNT_OR_ALL, help="name only as many segments as hold this many training tokens (all)")
def finalize_command(folder: Path, tokens: int | None) -> None:
    """Name the finished segments of DIR a shard set. Exit 4 with what is missing."""
    say_end(tasks.finalize_set(folder, tokens), tokens)


@command.command("status")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--json", "machine_readable", is_flag=True, help="print one JSON object")
def status_command(folder: Path, machine_readable: bool) -> None:
    """How far the set in DIR is."""
    found = tasks.status(folder)
    if machine_readable:
        click.echo(json.dumps(found.plain(), indent=1, ensure_ascii=False))
        return
    done = found.segments - len(found.missing)
    click.echo(f"{folder}: {done} of {found.segments} segments of {found.name}, {short(found.train_tokens)} tokens")
    if found.missing:
        named = ", ".join(str(index) for index in found.missing[:MOST_NAMED])
        click.echo(f"  missing   {named}{' …' if len(found.missing) > MOST_NAMED else ''}")
        click.echo(f"  next      picollm shard run {folder}")
    elif found.fingerprint is None:
        click.echo(f"  next      picollm shard finalize {folder}")
    if found.fingerprint is not None:
        click.echo(f"  named     {found.fingerprint}")
