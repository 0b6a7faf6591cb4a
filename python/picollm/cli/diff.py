"""`picollm diff`: what a change changes, in six answers. No training, no torch."""

import shlex
from pathlib import Path

import click

from picollm.cli.colour import show
from picollm.cli.knobs import request_from_words
from picollm.cli.places import measured_bytes_per_token
from picollm.cli.plan import STRICT, planned, require_none
from picollm.errors import CheckError, MissingError
from picollm.layout import Layout
from picollm.plan.compare import compare
from picollm.plan.presets import PRESETS
from picollm.plan.trainplan import TrainPlan
from picollm.runtime import durable

DIFFERENT = 1
PLAN = "plan.json"


@click.command("diff", context_settings={"ignore_unknown_options": True})
@click.argument("a")
@click.argument("b")
@click.option("--json", "machine_readable", is_flag=True, help="print one JSON object")
@STRICT
@click.pass_context
def command(ctx: click.Context, a: str, b: str, machine_readable: bool, strict: bool) -> None:
    """What taking B instead of A changes: data, tokens, capacity, memory, stability, budget.

    A and B are runs, TOML files, presets, or quoted options: picollm diff "--depth 12" "--depth 12 --bf16".
    A quoted list may begin with a preset or a file: picollm diff tiny "tiny --depth 4". Exit 0: same, 1: different;
    with --strict 3, if there is a warning for B.
    """
    first, second = plan_behind(a), plan_behind(b)
    found = compare(first, second, measured_bytes_per_token(Layout.from_env()))
    show(found, machine_readable=machine_readable)
    if strict:
        require_none(second.warnings)
    ctx.exit(0 if found.same else DIFFERENT)


def plan_behind(said: str) -> TrainPlan:
    """The plan of a run, a file, a preset or quoted options. Raises MissingError, UsageError, CheckError."""
    words = shlex.split(said)
    if not words or words[0].startswith("-"):
        return planned(request_from_words(words))
    first, *rest = words
    run = next((path for path in (Layout.from_env().runs / first, Path(first)) if (path / PLAN).is_file()), None)
    if run and not rest:
        return saved_plan(run / PLAN)
    if run:
        return planned(request_from_words(["--config", str(run / "config.toml"), *rest]))
    if first in PRESETS:
        return planned(request_from_words(["--preset", first, *rest]))
    if Path(first).is_file():
        return planned(request_from_words(["--config", first, *rest]))
    presets = ", ".join(PRESETS)
    raise MissingError(f"{first!r} is no run, no file and no preset", hint=f"presets: {presets}; options in quotes")


def saved_plan(path: Path) -> TrainPlan:
    """The plan a run was started with. Raises CheckError for a file we did not write."""
    try:
        return TrainPlan.from_json(durable.read_json(path)["plan"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckError(f"{path}: not the plan of a run ({error})") from None
