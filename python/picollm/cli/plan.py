"""`picollm plan`: what a training command means and costs, before it runs. No training, no torch."""

import json

import click

from picollm.cli.knobs import LayeredCommand, train_options
from picollm.cli.places import facts_for, machine_for, tokenizer_vocab
from picollm.errors import CheckError
from picollm.layout import Layout
from picollm.plan.render import as_json, render
from picollm.plan.request import TrainRequest
from picollm.plan.resolve import resolve
from picollm.plan.trainplan import TrainPlan


def planned(request: TrainRequest) -> TrainPlan:
    """The plan for this request with what lies here; nothing is built and nothing is required to exist."""
    layout = Layout.from_env()
    data = facts_for(request, layout)
    known = request.vocab_size is not None or data is not None
    vocab = None if known else tokenizer_vocab(request, layout)
    return resolve(request, machine_for(request), data, tokenizer_vocab=vocab)


@click.command("plan", cls=LayeredCommand)
@click.option("--json", "machine_readable", is_flag=True, help="print one JSON object")
@click.option("--strict", is_flag=True, help="exit 3 if there is a warning")
@train_options
def command(request: TrainRequest, machine_readable: bool, strict: bool) -> None:
    """What a training command means: data, tokens, shape, effort; memory, time and cost. Takes train's options."""
    plan = planned(request)
    click.echo(json.dumps(as_json(plan), indent=1) if machine_readable else render(plan), nl=machine_readable)
    if strict and plan.warnings:
        raise CheckError(f"{len(plan.warnings)} warnings under --strict: " + ", ".join(w.code for w in plan.warnings))
