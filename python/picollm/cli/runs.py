"""`picollm runs`: which runs there are, how they differ, how one is doing. Reads their files; no torch."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from picollm.cli import runfiles
from picollm.cli.runfiles import ago, all_runs, curve, find_run, plan_of
from picollm.errors import CheckError, MissingError
from picollm.layout import Layout
from picollm.model.counts import count
from picollm.plan.compare import other_tokenizer
from picollm.plan.render import duration, short
from picollm.report.picture import sparkline
from picollm.report.run import Run

SCHEMA = "picollm.runs/1"
METRICS = ("bpb", "loss", "loss_ema", "grad_norm", "lr_mult", "tok_s")
TABLE_ROWS = 12
RUNS_DIR = click.option("--runs-dir", type=click.Path(path_type=Path), help="where runs lie; default: runs")
JSON = click.option("--json", "machine_readable", is_flag=True, help="print one JSON object")


@click.group("runs")
def command() -> None:
    """Runs on this disk: list them, compare two, watch one."""


def folder_of(runs_dir: Path | None) -> Path:
    return runs_dir or Layout.from_env().runs


@command.command("list")
@RUNS_DIR
@JSON
def list_command(runs_dir: Path | None, machine_readable: bool) -> None:
    """Every run: state, steps, validation, size; the most recent first."""
    folder, now = folder_of(runs_dir), time.time()
    rows = [summary(run, now) for run in all_runs(folder)]
    if machine_readable:
        click.echo(json.dumps({"schema": SCHEMA, "folder": str(folder), "runs": rows}, indent=1))
        return
    if not rows:
        click.echo(f"no runs in {folder}: picollm quickstart, or picollm train")
        return
    for line in table(["run", "state", "step", "val bpb", "params", "tokens", "took", "changed"], map(cells, rows)):
        click.echo(line)


def summary(run: Run, now: float) -> dict[str, Any]:
    """A run in plain values."""
    plan, best, last = plan_of(run), run.best, runfiles.changed(run)
    return {
        "name": run.name,
        "state": runfiles.state(run, now),
        "step": run.steps_done,
        "steps": plan.steps if plan else None,
        "stage": plan.request.get("stage", "base") if plan else None,
        "depth": plan.model.depth if plan else None,
        "params": count(plan.model).total if plan else None,
        "tokens": run.steps_done * plan.tokens_per_step if plan else None,
        "best_bpb": best[1] if best else None,
        "best_step": best[0] if best else None,
        "loss": next(reversed(curve(run, "loss_ema").values()), None),
        "seconds": run.seconds,
        "changed": last,
        "age": now - last,
    }


def cells(row: Mapping[str, Any]) -> list[str]:
    best = f"{row['best_bpb']:.4f}" if row["best_bpb"] is not None else "-"
    steps = f"{row['step']:,}" + (f"/{row['steps']:,}" if row["steps"] else "")
    sizes = [short(row[name]) if row[name] else "-" for name in ("params", "tokens")]
    return [row["name"], row["state"], steps, best, *sizes, duration(row["seconds"]), ago(row["age"])]


def table(heads: Sequence[str], rows: Any) -> list[str]:
    """Aligned columns: the first two to the left, numbers to the right."""
    lines = [list(heads), *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    left = [f"{{:<{width}}}" if i < 2 else f"{{:>{width}}}" for i, width in enumerate(widths)]
    return [" " + "  ".join(form.format(cell) for form, cell in zip(left, line, strict=True)) for line in lines]


@command.command("compare")
@click.argument("a")
@click.argument("b")
@click.option("--metric", type=click.Choice(METRICS), help="default: bpb, or loss where nothing was validated")
@RUNS_DIR
@JSON
def compare_command(a: str, b: str, metric: str | None, runs_dir: Path | None, machine_readable: bool) -> None:
    """Two runs side by side at the steps they share, and the largest difference between them."""
    first, second = (find_run(said, folder_of(runs_dir)) for said in (a, b))
    plans = plan_of(first), plan_of(second)
    other = bool(plans[0] and plans[1] and other_tokenizer(plans[0], plans[1]))
    metric = metric or ("bpb" if first.val and second.val else "loss")
    if other and metric in ("loss", "loss_ema"):
        raise CheckError("different tokenizers: loss is not comparable", hint="--metric bpb: bits per byte are")
    curves = curve(first, metric), curve(second, metric)
    shared = sorted(curves[0].keys() & curves[1].keys())
    if not shared:
        raise MissingError(
            f"{first.name} and {second.name} have no step with {metric} in common", hint="picollm runs list"
        )
    gaps = {step: curves[1][step] - curves[0][step] for step in shared}
    worst = max(gaps, key=lambda step: abs(gaps[step]))
    if machine_readable:
        points = [{"step": step, "a": curves[0][step], "b": curves[1][step]} for step in shared]
        value: dict[str, Any] = {
            "schema": SCHEMA,
            "a": first.name,
            "b": second.name,
            "metric": metric,
            "points": points,
        }
        value |= {"largest_difference": abs(gaps[worst]), "at_step": worst, "same_tokenizer": not other}
        click.echo(json.dumps(value, indent=1))
        return
    rows = [["", f"{step:,}", *(f"{c[step]:.6g}" for c in curves), f"{gaps[step]:+.3g}"] for step in thinned(shared)]
    for line in table(["", "step", first.name, second.name, f"{metric}: B - A"], rows):
        click.echo(line)
    click.echo(f" largest difference {abs(gaps[worst]):.3g} at step {worst:,}, over {len(shared):,} shared steps")
    click.echo(f" what differs in their plans: picollm diff {a} {b}")


def thinned(steps: list[int]) -> list[int]:
    """At most TABLE_ROWS of them, the first and the last included."""
    if len(steps) <= TABLE_ROWS:
        return steps
    return [steps[round(i * (len(steps) - 1) / (TABLE_ROWS - 1))] for i in range(TABLE_ROWS)]


@command.command("watch")
@click.argument("run", required=False)
@click.option("--once", is_flag=True, help="show the present state and leave")
@click.option("--every", type=click.FloatRange(min=0.1), default=2.0, show_default=True, help="seconds between looks")
@RUNS_DIR
def watch_command(run: str | None, once: bool, every: float, runs_dir: Path | None) -> None:
    """Follow a run until it ends: step, loss, validation, time left. Unsaid: the run that changed last."""
    found = find_run(run, folder_of(runs_dir))
    shown = ""
    while True:
        text = status(found, time.time())
        if text != shown:
            click.echo(text)
            shown = text
        if once or runfiles.state(found, time.time()) != "running":
            return
        time.sleep(every)
        found = Run.read(found.path)


def status(run: Run, now: float) -> str:
    """One line: `NAME running · step 21/5,000 · loss 3.912 · val 1.402 bpb · 2.84 s/step · ETA 3 h 55 m 0 s ▇▅▄▃`."""
    plan, state, smooth = plan_of(run), runfiles.state(run, now), list(curve(run, "loss_ema").values())
    facts = [f"{run.name} {state}", f"step {run.steps_done:,}" + (f"/{plan.steps:,}" if plan else "")]
    if smooth:
        facts.append(f"loss {smooth[-1]:.4f}")
    if run.best:
        facts.append(f"val {run.best[1]:.4f} bpb (step {run.best[0]:,})")
    pace = runfiles.seconds_per_step(run)
    if pace and plan and state == "running":
        facts += [f"{pace:.3g} s/step", f"ETA {duration((plan.steps - run.steps_done) * pace)}"]
    if message := run.exit.get("message"):
        facts.append(str(message))
    return " · ".join(facts) + ("  " + sparkline(smooth) if len(smooth) > 1 else "")
