"""`picollm report`: one page about a run, from its files alone."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from picollm.errors import MissingError
from picollm.layout import Layout

if TYPE_CHECKING:
    from picollm.evals.result import BitsPerByte
    from picollm.report.run import Run


@click.command("report")
@click.argument("run", required=False)
@click.option("--runs-dir", type=click.Path(path_type=Path, file_okay=False), help="Where RUN is looked for.")
def command(run: str | None, runs_dir: Path | None) -> None:
    """Write RUN's report.md and loss.svg. RUN: a name or a folder; unsaid, the run that was logged last."""
    from picollm.report.page import write_report
    from picollm.report.run import Run

    folder = find_run(run, runs_dir or Layout.from_env().runs)
    if comparable(Run.read(folder)):
        add_baselines(folder)
    read = Run.read(folder)
    path = write_report(read)
    click.echo(str(path))
    if read.best:
        click.echo(f"{read.name}: best {read.best[1]:.4f} bits per byte at step {read.best[0]:,}", err=True)


def find_run(said: str | None, runs: Path) -> Path:
    """The folder of the run that is meant. Raises MissingError with the runs that there are."""
    there = sorted(runs.glob("*/metrics.jsonl"), key=lambda path: (path.stat().st_mtime, path.parent.name))
    if said is None:
        if not there:
            raise MissingError(f"no run in {runs}", hint="picollm quickstart, or picollm train")
        return there[-1].parent
    for folder in (runs / said, Path(said)):
        if (folder / "metrics.jsonl").is_file():
            return folder
    names = ", ".join(sorted(path.parent.name for path in there)) or "none"
    raise MissingError(f"no run {said!r}; in {runs}: {names}", hint="picollm report NAME")


def comparable(run: "Run") -> bool:
    """Whether the simple predictors can be asked now: a base run whose shards are here, not asked before."""
    from picollm.shards.manifest import MANIFEST

    plan = run.plan.get("plan", {})
    data = plan.get("data") or {}
    base = plan.get("request", {}).get("stage", "base") == "base"
    return base and "baselines" not in run.evals and (Path(data.get("path", "")) / MANIFEST).is_file()


def add_baselines(run: Path) -> "dict[str, BitsPerByte]":
    """Ask unigram, bigram and gzip for the rows the run validates on; also left in evals/baselines.json."""
    from dataclasses import replace

    from picollm.evals.baselines import FIT_TOKENS, measure
    from picollm.evals.bpb import fixed_rows
    from picollm.runtime import durable
    from picollm.runtime.device import choose
    from picollm.runtime.dist import World
    from picollm.shards.manifest import ShardSet
    from picollm.tok.tokenizer import Tokenizer
    from picollm.train.data import found_again
    from picollm.train.opening import read_plan
    from picollm.train.validate import rows_of, validation_stream

    plan = read_plan(run)
    if plan is None or plan.data is None:
        raise MissingError(f"{run}: no plan.json", hint="name the run's folder, as training left it")
    plan = replace(plan, data=found_again(plan.data, run, Layout.from_env()))
    assert plan.data is not None
    shards = ShardSet.open(Path(plan.data.path), plan.data.fingerprint)
    tokenizer = Tokenizer.load(shards.path)
    spelling = [tokenizer.token_bytes(token) if size else b"" for token, size in enumerate(tokenizer.byte_lengths())]
    _, steps = rows_of(plan)
    with World.open(choose("cpu")) as world, validation_stream(plan, world) as stream:
        rows = fixed_rows(stream, spelling, steps)
    found = measure(shards.files("train"), shards.dtype, rows, FIT_TOKENS)
    folder = run / "evals"
    folder.mkdir(exist_ok=True)
    value = {
        "v": 1,
        "corpus": shards.manifest["source"]["name"],
        "fit_tokens": min(FIT_TOKENS, shards.train_tokens),
        "set_hash": found["unigram"].set_hash,
        "baselines": {name: result.to_json() for name, result in found.items()},
    }
    durable.write_json(folder / "baselines.json", value)
    return found
