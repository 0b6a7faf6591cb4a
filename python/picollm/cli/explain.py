"""`picollm explain`: what a knob, a warning or an idea means, with the value it has here. No training, no torch."""

import difflib
from dataclasses import replace
from typing import Any

import click

from picollm.cli.colour import show
from picollm.cli.knobs import converted, request_from_words, train_options
from picollm.cli.places import machine_for, measured_bytes_per_token
from picollm.cli.plan import planned
from picollm.errors import PicoError, UsageError
from picollm.layout import Layout
from picollm.plan.codes import BY_CODE, CODES
from picollm.plan.explain import (
    BASE,
    Explanation,
    explain_at,
    explain_code,
    explain_defaults,
    explain_dtype,
    explain_knob,
    explain_loss,
    is_numeric,
    trial_words,
)
from picollm.plan.knobs import BY_NAME, GROUPS, KNOBS, Knob, find
from picollm.plan.request import Origin, TrainRequest
from picollm.plan.trainplan import TrainPlan

IDEAS = ("loss",)


class TopicFirst(click.Command):
    """The first word is the topic, also where it is spelled as an option (`picollm explain --warmup-steps`)."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("--") and find(args[0]) is not None:
            args = [args[0].removeprefix("--"), *args[1:]]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Topics"):
            formatter.write_dl([
                ("KNOB", "any option of picollm plan, in any spelling: warmup-steps, --block-size"),
                ("CODE", ", ".join(code.code for code in CODES)),
                ("loss, dtype", "the number in the log; the number formats on this machine"),
            ])  # fmt: skip
        own = [p for p in self.get_params(ctx) if isinstance(p, click.Option) and not p.name.startswith("knob_")]
        with formatter.section("Options"):
            formatter.write_dl([row for param in own if (row := param.get_help_record(ctx))])
            formatter.write_dl([("--depth 4 …", "any option of picollm plan: the plan whose values are shown")])


@click.command("explain", cls=TopicFirst)
@click.argument("topic", required=False)
@click.option("--at", metavar="A,B,C", help="a table: what each of these values of the knob costs")
@click.option("--defaults", is_flag=True, help="every knob: value, origin and rule on this machine")
@click.option("--json", "machine_readable", is_flag=True, help="print one JSON object")
@train_options
def command(request: TrainRequest, topic: str | None, at: str | None, defaults: bool, machine_readable: bool) -> None:
    """What a knob does and why it has its value: layer, rule, too low, too high, one experiment to try."""
    if (topic is None) != defaults:
        raise UsageError("say one topic, or --defaults", hint="picollm explain depth, picollm explain W201")
    answer = explain_defaults(planned(request)) if topic is None else answer_of(topic, at, request)
    show(answer, machine_readable=machine_readable)


def answer_of(topic: str, at: str | None, request: TrainRequest) -> Explanation:
    """The explanation of a topic. Raises UsageError where there is no such topic."""
    code, knob = BY_CODE.get(topic.upper()), find(topic)
    if at is not None and knob is None:
        raise UsageError(f"--at needs a knob, and {topic!r} is none", hint="picollm explain vocab-size --at 4096,32768")
    if code:
        return explain_code(code, planned(request))
    if topic in IDEAS:
        return explain_loss(planned(request))
    if knob is None:
        raise UsageError(f"nothing is called {topic!r}", hint=nearest(topic))
    if at is not None:
        return explain_at(knob, plans_at(knob, at, request), measured_bytes_per_token(Layout.from_env()))
    trial = {"base": priced([*BASE], request), "trial": priced(trial_words(knob), request)}
    if knob.name == "dtype":
        return explain_dtype(knob, planned(request), machine_for(request), **trial)
    return explain_knob(knob, planned(request), **trial)


def nearest(topic: str) -> str:
    """Topics spelled alike, or where to find all."""
    known = [name for knob in KNOBS for name in (knob.name, *knob.aliases, *knob.switches)]
    known = [name.replace("_", "-") for name in known] + [*IDEAS, *BY_CODE]
    close = difflib.get_close_matches(topic.removeprefix("--").replace("_", "-"), known, 3, 0.5)
    return f"did you mean {', '.join(close)}?" if close else "picollm explain --defaults lists every knob"


def plans_at(knob: Knob, at: str, request: TrainRequest) -> list[TrainPlan]:
    """One plan per value of `--at`. Raises UsageError for a knob without numbers or a value it cannot have."""
    if not is_numeric(knob):
        raise UsageError(f"--at takes numbers, and {knob.flag} has none", hint=f"picollm diff '{knob.example}' ''")
    texts = [text for text in at.split(",") if text.strip()]
    if not texts:
        raise UsageError("--at needs at least one value", hint="--at 4096,32768,65536")
    return [planned(with_value(request, knob, converted(knob, text.strip(), "--at"))) for text in texts]


def with_value(request: TrainRequest, knob: Knob, value: Any) -> TrainRequest:
    """The request with this value said as a flag would say it; its horizon and its like give way."""
    others: dict[str, Any] = {name: None for group in GROUPS if knob.name in group for name in group}
    origins = {**request.origins, knob.name: Origin("flag", knob.flag)}
    return replace(request, **{**others, knob.name: value}, origins=origins)


def priced(words: list[str], request: TrainRequest) -> TrainPlan | None:
    """The plan of an experiment on the machine that is asked about; None where this place cannot say."""
    here = {"gpu": request.gpu, "nproc": request.nproc, "price_per_gpu_hour": request.price_per_gpu_hour}
    said = [word for name, value in here.items() if value is not None for word in (BY_NAME[name].flag, str(value))]
    try:
        return planned(request_from_words([*words, *said] if not set(said) & set(words) else words))
    except PicoError:
        return None
