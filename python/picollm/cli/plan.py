"""`picollm plan`: what a training command means and costs, before it runs. No training, no torch."""

import json
from dataclasses import replace
from pathlib import Path

import click

from picollm.cli.colour import paint
from picollm.cli.knobs import LayeredCommand, train_options
from picollm.cli.places import facts_for, free_bytes, machine_for, tokenizer_vocab
from picollm.errors import CheckError, UsageError
from picollm.layout import Layout
from picollm.plan.codes import BY_CODE
from picollm.plan.plot import lr_curve
from picollm.plan.render import as_json, render
from picollm.plan.request import TrainRequest
from picollm.plan.resolve import resolve
from picollm.plan.trainplan import TrainPlan
from picollm.plan.warnings import disk_warnings


def planned(request: TrainRequest) -> TrainPlan:
    """The plan for this request with what lies here; nothing is built and nothing is required to exist."""
    layout = Layout.from_env()
    data = facts_for(request, layout)
    known = request.vocab_size is not None or data is not None
    vocab = None if known else tokenizer_vocab(request, layout)
    plan = resolve(request, machine_for(request), data, tokenizer_vocab=vocab)
    if request.gpu is not None:  # another machine has another disk
        return plan
    found = disk_warnings(plan, free_bytes(Path(request.runs_dir) if request.runs_dir else layout.runs))
    return replace(plan, warnings=tuple(sorted([*plan.warnings, *found], key=lambda warning: warning.code)))


def quieted(plan: TrainPlan, said: tuple[str, ...]) -> TrainPlan:
    """The plan without these warnings. Raises UsageError for a code that does not exist."""
    codes = [code.strip().upper() for codes in said for code in codes.split(",")]
    if unknown := [code for code in codes if code not in BY_CODE]:
        raise UsageError(f"--quiet-warnings: there is no {unknown[0]!r}", hint=f"codes: {', '.join(BY_CODE)}")
    return replace(plan, warnings=tuple(warning for warning in plan.warnings if warning.code not in codes))


@click.command("plan", cls=LayeredCommand)
@click.option("--json", "machine_readable", is_flag=True, help="print one JSON object")
@click.option("--plot", is_flag=True, help="draw the learning rate over the run")
@click.option("--strict", is_flag=True, help="exit 3 if there is a warning")
@click.option("--quiet-warnings", multiple=True, metavar="CODE", help="leave these warnings out: W301,W407")
@train_options
def command(
    request: TrainRequest, machine_readable: bool, plot: bool, strict: bool, quiet_warnings: tuple[str, ...]
) -> None:
    """What a training command means: data, tokens, shape, effort; memory, time and cost. Takes train's options."""
    plan = quieted(planned(request), quiet_warnings)
    if machine_readable:
        click.echo(json.dumps(as_json(plan), indent=1))
    else:
        click.echo(paint(render(plan)) + (lr_curve(plan) if plot else ""), nl=False)
    if strict and plan.warnings:
        raise CheckError(f"{len(plan.warnings)} warnings under --strict: " + ", ".join(w.code for w in plan.warnings))
