"""Command-line options made from the knob registry, and a request made from flags, environment, file and preset."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from picollm.cli.options import COUNT, split_unit
from picollm.errors import PicoError, UsageError
from picollm.layout import Layout
from picollm.plan.config import read
from picollm.plan.knobs import BY_NAME, HORIZONS, KNOBS, Kind, Knob, Layer, option
from picollm.plan.presets import PRESETS
from picollm.plan.request import Interval, TrainRequest, combine
from picollm.plan.resolve import resolve
from picollm.plan.trainplan import TrainPlan
from picollm.plan.values import shown, value_of
from picollm.runtime.machine import Machine, parse_gpu
from picollm.train.data import facts

BOOLS = {"1": True, "true": True, "on": True, "yes": True, "0": False, "false": False, "off": False, "no": False}
ENV_ALIASES = {"price_per_gpu_hour": ("PICOLLM_GPU_PRICE",)}


class IntervalType(click.ParamType[Interval]):
    """`100`, `15min`, `20usd`."""

    name = "interval"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Interval:
        try:
            return value if isinstance(value, Interval) else Interval.parse(str(value))
        except UsageError as error:
            self.fail(f"{error.message}; {error.hint}", param, ctx)


class Dollars(click.ParamType[float]):
    """`20` or `20usd`."""

    name = "dollars"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number, unit = split_unit(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if unit.lower() not in ("", "usd"):
            self.fail(f"{value!r}: say 20 or 20usd", param, ctx)
        return number


class Switch(click.ParamType[bool]):
    """A flag's value in a variable or a file: on/off, true/false, yes/no, 1/0."""

    name = "on|off"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> bool:
        word = str(value).lower()
        if word not in BOOLS:
            self.fail(f"{value!r} is neither on nor off", param, ctx)
        return BOOLS[word]


class OrAuto(click.ParamType[Any]):
    """A value of another type, or `auto`."""

    def __init__(self, kind: click.ParamType[Any]) -> None:
        self.kind, self.name = kind, f"{kind.name}|auto"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == "auto" else self.kind.convert(value, param, ctx)


def type_of(knob: Knob) -> click.ParamType[Any]:
    """How a value of this knob is read, wherever it is written."""
    simple: dict[Kind, click.ParamType[Any]] = {
        Kind.INT: click.INT,
        Kind.COUNT: COUNT,
        Kind.NUMBER: click.FLOAT,
        Kind.TEXT: click.STRING,
        Kind.PATH: click.STRING,
        Kind.FLAG: Switch(),
        Kind.INTERVAL: IntervalType(),
        Kind.DOLLARS: Dollars(),
    }
    kind = click.Choice(knob.choices) if knob.kind is Kind.CHOICE else simple[knob.kind]
    return OrAuto(kind) if knob.auto else kind


class KnobOption(click.Option):
    """One spelling of a knob. Canonical spellings show in help, the others are named there."""

    def __init__(self, spelling: str, knob: Knob, **kwargs: Any) -> None:
        self.knob, self.spelling = knob, option(spelling)
        declared = f"{self.spelling}/--no-{self.spelling[2:]}" if knob.kind is Kind.FLAG else self.spelling
        super().__init__([declared, parameter(spelling)], default=None, **kwargs)


def parameter(spelling: str) -> str:
    return "knob_" + spelling


def options_of(knob: Knob) -> list[KnobOption]:
    """The canonical option, its aliases and its switches."""
    also = "".join(f"; also {flag}" for flag in (*knob.flags[1:], *map(option, knob.switches)))
    text = f"{knob.rule}{also}"
    if knob.kind is Kind.FLAG:
        return [KnobOption(knob.name, knob, help=text)]
    kind = type_of(knob)
    bare = {"is_flag": False, "flag_value": knob.bare} if knob.bare else {}
    made = [KnobOption(knob.name, knob, type=kind, multiple=True, help=text, **bare)]
    made += [KnobOption(alias, knob, type=kind, multiple=True, hidden=True) for alias in knob.aliases]
    made += [KnobOption(switch, knob, is_flag=True, hidden=True) for switch in knob.switches]
    return made


# Their values need torch, a measurement or the whole command: help shows their rule.
UNKNOWN_YET = frozenset({
    *HORIZONS, "device", "dtype", "compile", "device_batch_size", "grad_accum", "workers", "gpu", "peak_flops",
    "step_time", "name",
})  # fmt: skip
HELP_WIDTH = 120
WORDS = "picollm.words"  # of ctx.meta: what was typed beside --help


class LayeredCommand(click.Command):
    """Help in the four layers with the value each knob has now, then run control, then the command's own options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.context_settings.setdefault("max_content_width", HELP_WIDTH)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[WORDS] = [word for word in args if word not in ctx.help_option_names]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_paragraph()
        formatter.write_text(
            "Decisions in four layers, each with the value it would have now and where that comes from; "
            "picollm explain FLAG tells why. One horizon: " + " | ".join(BY_NAME[name].flag for name in HORIZONS) + "."
        )
        plan = self.plan_so_far(ctx)
        for layer in Layer:
            shown = [p for p in self.params if isinstance(p, KnobOption) and p.knob.layer is layer and not p.hidden]
            rows = [(row[0], live_help(p.knob, plan)) for p in shown if (row := p.get_help_record(ctx))]
            number = "" if layer is Layer.RUN else f"{list(Layer).index(layer) + 1}  "
            with formatter.section(f"{number}{layer.value.upper()}"):
                formatter.write_dl(rows)
        others = [p for p in self.get_params(ctx) if isinstance(p, click.Option) and not isinstance(p, KnobOption)]
        with formatter.section("THIS COMMAND"):
            formatter.write_dl([row for param in others if (row := param.get_help_record(ctx))])

    def plan_so_far(self, ctx: click.Context) -> TrainPlan | None:
        """The plan of the words beside --help; None where they make none. Nothing is probed or measured."""
        try:
            inner = self.make_context(ctx.info_name, list(ctx.meta.get(WORDS, ())), resilient_parsing=True)
            spelled = {name: value for name, value in inner.params.items() if name.startswith("knob_")}
            request = request_of(spelled, inner.params.get("preset"), inner.params.get("config"), os.environ)
            machine = Machine.gpus(*parse_gpu(request.gpu)) if request.gpu else Machine.cpu()
            return resolve(replace(request, device=None), machine, facts(request, Layout.from_env()))
        except (click.ClickException, PicoError):
            return None


def live_help(knob: Knob, plan: TrainPlan | None) -> str:
    """`2,048 [rule]; also --block-size`, or the rule where the value is not known yet."""
    also = "".join(f"; also {flag}" for flag in (*knob.flags[1:], *map(option, knob.switches)))
    if plan is None:
        return knob.rule + also
    value, origin = value_of(plan, knob), plan.origins[knob.name]
    if origin.source != "rule":
        return f"{shown(value)} [{origin}]{also}"
    if value is None or knob.name in UNKNOWN_YET:
        return knob.rule + also
    return f"{shown(value)} [rule]{also}"


def train_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command every knob, --preset and --config; the function gets one TrainRequest as its first argument."""

    @functools.wraps(function)
    def run(**params: Any) -> Any:
        spelled = {name: params.pop(name) for name in list(params) if name.startswith("knob_")}
        request = request_of(spelled, params.pop("preset"), params.pop("config"), os.environ)
        return function(request, **params)

    wrapped: Callable[..., Any] = run
    made = [made for knob in KNOBS for made in options_of(knob)]
    preset = click.Option(["--preset"], type=click.Choice(list(PRESETS)), help="values to start from")
    config = click.Option(["--config"], type=click.Path(path_type=Path), help="values from a TOML file of a run")
    params: list[click.Parameter] = [*made, preset, config]
    vars(run)["__click_params__"] = [*reversed(params), *getattr(function, "__click_params__", [])]
    return wrapped


def request_from_words(words: Sequence[str]) -> TrainRequest:
    """The request that these options make, as `plan` would read them. Raises UsageError."""

    @click.command("flags", add_help_option=False)
    @train_options
    def read_options(request: TrainRequest) -> TrainRequest:
        return request

    try:
        request = read_options.main(list(words), standalone_mode=False)
    except click.ClickException as error:
        raise UsageError(f"{' '.join(words)}: {error.format_message()}") from None
    assert isinstance(request, TrainRequest)
    return request


def request_of(
    spelled: Mapping[str, Any], preset: str | None, config: Path | None, environment: Mapping[str, str]
) -> TrainRequest:
    """One request. Flag beats environment beats file beats preset; rules come later.

    Raises UsageError where two spellings or two sources of one strength disagree.
    """
    flags, words = from_flags(spelled)
    if gpus := flags.get("gpu"):
        _, count = parse_gpu(gpus)
        if ":" in gpus and flags.setdefault("nproc", count) != count:
            raise UsageError(f"--gpu {gpus} means {count} processes, but --nproc is {flags['nproc']}")
        words.setdefault("nproc", "--gpu")
    said, variables = from_environment(environment)
    written = from_file(config) if config else {}
    start = dict(PRESETS[preset]) if preset else {}
    for values, names in ((flags, words), (said, variables), (written, {})):
        spread_auto(values, names)
    return combine(
        ("flag", flags, words),
        ("env", said, variables),
        ("config", written, dict.fromkeys(written, str(config))),
        ("preset", start, dict.fromkeys(start, preset or "")),
    )


def spread_auto(values: dict[str, Any], words: dict[str, str]) -> None:
    """`auto` in place of a value is another knob's flag: no value, and that flag."""
    for knob in KNOBS:
        if knob.auto and values.get(knob.name) == "auto":
            del values[knob.name]
            values[knob.auto] = True
            words[knob.auto] = f"{words.pop(knob.name, knob.flag)} auto"


def from_flags(spelled: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Values by knob, and the spelling used for each. Raises UsageError where two spellings disagree."""
    values: dict[str, Any] = {}
    words: dict[str, str] = {}
    for knob in KNOBS:
        for name in (knob.name, *knob.aliases, *knob.switches):
            given = spelled.get(parameter(name))
            if name in knob.switches:
                given = (knob.switches[name],) if given else ()
            elif knob.kind is Kind.FLAG:
                given = () if given is None else (given,)
            for value in given or ():
                flag = option(name)
                if values.get(knob.name, value) != value:
                    first = f"{words[knob.name]} {values[knob.name]}"
                    raise UsageError(f"{first} and {flag} {value} say the same knob differently", hint="keep one")
                values[knob.name] = value
                words[knob.name] = flag
    return values, words


def converted(knob: Knob, value: object, where: str) -> Any:
    """`value` read as this knob's kind. Raises UsageError naming the place it stands in."""
    try:
        return type_of(knob).convert(value, None, None)
    except click.BadParameter as error:
        raise UsageError(f"{where}: {error.message}") from None


def from_environment(environment: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """PICOLLM_<KNOB> for every knob."""
    values: dict[str, Any] = {}
    words: dict[str, str] = {}
    for knob in KNOBS:
        for variable in (knob.variable, *ENV_ALIASES.get(knob.name, ())):
            if knob.name not in values and (text := environment.get(variable)):
                values[knob.name] = converted(knob, text, variable)
                words[knob.name] = variable
    return values, words


def from_file(path: Path) -> dict[str, Any]:
    """The values of a TOML file."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: {error}") from None
    return {name: converted(BY_NAME[name], value, f"{path}: {name}") for name, value in read(text, str(path)).items()}
