"""`picollm plan`: what a training command means and costs, before it runs. No training, no torch."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import click

from picollm.cli.colour import paint
from picollm.cli.knobs import LayeredCommand, train_options
from picollm.cli.places import free_bytes, machine_for, tokenizer_vocab
from picollm.errors import CheckError, UsageError
from picollm.layout import Layout
from picollm.plan.codes import BY_CODE
from picollm.plan.facts import Warning
from picollm.plan.knobs import TIMED
from picollm.plan.plot import lr_curve
from picollm.plan.render import as_json, render
from picollm.plan.request import TrainRequest
from picollm.plan.resolve import resolve
from picollm.plan.speed import with_measured
from picollm.plan.trainplan import TrainPlan
from picollm.plan.warnings import disk_warnings, find
from picollm.train.data import facts


def planned(request: TrainRequest, *, speed: float | None = None, depth: int | None = None) -> TrainPlan:
    """The plan for this request with what lies here; nothing is built and nothing is required to exist.

    `speed` (FLOP/s of all devices) and `depth` are those of a measured plan whose horizon is a time.
    """
    layout = Layout.from_env()
    data = facts(request, layout)
    known = request.vocab_size is not None or data is not None
    vocab = None if known else tokenizer_vocab(request, layout)
    plan = resolve(request, machine_for(request), data, tokenizer_vocab=vocab, speed=speed, depth=depth)
    return warned(plan, request, plan.warnings)


def warned(plan: TrainPlan, request: TrainRequest, found: tuple[Warning, ...]) -> TrainPlan:
    """The plan with these warnings, and what this machine's disk says where the plan is for this machine."""
    if request.gpu is None:
        runs = Path(request.runs_dir) if request.runs_dir else Layout.from_env().runs
        found += tuple(disk_warnings(plan, free_bytes(runs)))
    return replace(plan, warnings=tuple(sorted(found, key=lambda warning: warning.code)))


def measured_plan(request: TrainRequest) -> TrainPlan:
    """The plan after eight real steps: every estimate replaced, the figures kept with the run."""
    from picollm.cli.measure import keep, measured

    plan = planned(request)
    figures = measured(plan, request)
    plan = with_measured(plan, figures)
    if plan.horizon in TIMED:  # so many minutes are other steps now
        plan = planned(request, speed=plan.estimate.flops_per_second, depth=plan.model.depth)
        plan = with_measured(plan, figures)
    plan = warned(plan, request, find(plan, machine_for(request)))
    keep(plan, request)
    return plan


def quieted(plan: TrainPlan, codes: frozenset[str]) -> TrainPlan:
    """The plan without these warnings."""
    return replace(plan, warnings=tuple(warning for warning in plan.warnings if warning.code not in codes))


def quiet_codes(said: tuple[str, ...]) -> frozenset[str]:
    """`("w301,W407",)` → {"W301", "W407"}. Raises UsageError for a code that does not exist."""
    codes = [code.strip().upper() for codes in said for code in codes.split(",")]
    if unknown := [code for code in codes if code not in BY_CODE]:
        raise UsageError(f"--quiet-warnings: there is no {unknown[0]!r}", hint=f"codes: {', '.join(BY_CODE)}")
    return frozenset(codes)


def require_none(warnings: Iterable[Warning]) -> None:
    """What --strict asks for. Raises CheckError where there is a warning."""
    if codes := [warning.code for warning in warnings]:
        count = "a warning" if len(codes) == 1 else f"{len(codes)} warnings"
        raise CheckError(
            f"{count} under --strict: {', '.join(codes)}",
            hint=f"picollm explain {codes[0]}, or --quiet-warnings {','.join(codes)}",
        )


STRICT = click.option("--strict", is_flag=True, help="exit 3 if there is a warning")
QUIET = click.option("--quiet-warnings", multiple=True, metavar="CODE", help="leave these warnings out: W301,W407")


@click.command("plan", cls=LayeredCommand)
@click.option("--json", "machine_readable", is_flag=True, help="print one JSON object")
@click.option("--plot", is_flag=True, help="draw the learning rate over the run")
@click.option("--measure", is_flag=True, help="take eight real steps here and replace every estimate")
@STRICT
@QUIET
@train_options
def command(
    request: TrainRequest,
    machine_readable: bool,
    plot: bool,
    measure: bool,
    strict: bool,
    quiet_warnings: tuple[str, ...],
) -> None:
    """What a training command means: data, tokens, shape, effort; memory, time and cost. Takes train's options."""
    plan = quieted(measured_plan(request) if measure else planned(request), quiet_codes(quiet_warnings))
    if machine_readable:
        click.echo(json.dumps(as_json(plan), indent=1))
    else:
        click.echo(paint(render(plan)) + (lr_curve(plan) if plot else ""), nl=False)
    if strict:
        require_none(plan.warnings)
