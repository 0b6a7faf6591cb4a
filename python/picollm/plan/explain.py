"""What a knob, a code or an idea means, beside the value that a plan gives it. Pure: facts come in, answers go out."""

import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from picollm.model.counts import count, flops_per_token
from picollm.plan.codes import BY_CODE, Code
from picollm.plan.knobs import KNOBS, Kind, Knob, Layer, Question, option
from picollm.plan.memory import LOGIT_BYTES
from picollm.plan.render import GIB, duration, short
from picollm.plan.trainplan import TrainPlan
from picollm.plan.values import shown, value_of
from picollm.runtime.machine import Machine

SCHEMA = "picollm.explain/1"
BASE = ("--preset", "tiny")
RULER = 12  # width of the labels


@dataclass(frozen=True)
class Explanation:
    """Labelled lines, and the same as plain values. `notes` stand below the labels, free in form."""

    topic: str
    kind: str  # "knob", "code", "idea", "defaults" or "table"
    lines: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    facts: Mapping[str, Any]

    def render(self) -> str:
        width = max((len(label) for label, _ in self.lines), default=0)
        labelled = [f" {label:<{max(width, RULER)}} {text}" for label, text in self.lines if text]
        return "\n".join([self.topic, *labelled, *self.notes]) + "\n"

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "topic": self.topic, "kind": self.kind, **self.facts}


def questions_of(knob: Knob) -> Iterator[tuple[int, Question, str]]:
    """The questions this knob touches: number in the order of `diff`, question, how."""
    for number, question in enumerate(Question, 1):
        if question in knob.changes:
            yield number, question, knob.changes[question]


def layer_name(layer: Layer) -> str:
    number = list(Layer).index(layer) + 1
    return layer.value if layer is Layer.RUN else f"{number} {layer.value}"


def trial_words(knob: Knob) -> list[str]:
    """The options of a run that shows what this knob does."""
    return [*BASE, *shlex.split(knob.example)]


def runs_nothing(knob: Knob) -> bool:
    """Whether looking at the plan shows all there is to see."""
    return knob.plan_only or (knob.may_change and not knob.changes)


def experiment(knob: Knob, base: TrainPlan | None, trial: TrainPlan | None) -> list[tuple[str, str]]:
    """One thing to try, and its price where both plans are known."""
    words = shlex.join(trial_words(knob))
    if runs_nothing(knob):
        return [("try", f"picollm plan {words}   (runs nothing)")]
    lines = [("try", f"picollm diff {BASE[1]} {shlex.quote(words)}   (runs nothing)")]
    if base and trial and base.estimate.seconds and trial.estimate.seconds:
        seconds = base.estimate.seconds + trial.estimate.seconds
        dollars = base.estimate.dollars(base.ranks) + trial.estimate.dollars(trial.ranks)
        cost = f", ${dollars:.2f}" if trial.estimate.price else ""
        price = f"about {duration(max(1.0, seconds))} for both on {trial.machine}{cost}, without start-up"
    else:
        price = "time unknown"
    lines += [
        ("then", f"picollm train {shlex.join(BASE)} --name base"),
        ("", f"picollm train {words} --name trial   ({price})"),
        ("", "picollm runs compare base trial"),
    ]
    return [(label or " ", text) for label, text in lines]


def explain_knob(
    knob: Knob, plan: TrainPlan, base: TrainPlan | None = None, trial: TrainPlan | None = None
) -> Explanation:
    """A knob beside its value in `plan`. `base`, `trial`: plans of the experiment, for its price."""
    value, origin = value_of(plan, knob), plan.origins[knob.name]
    touched = list(questions_of(knob))
    also = [*knob.flags[1:], *map(option, knob.switches)]
    codes = [BY_CODE[code] for code in knob.warnings]
    lines = [
        ("also", ", ".join(also)),
        ("layer", layer_name(knob.layer)),
        (
            "value",
            f"{shown(value)} [{'rule' if origin.source == 'rule' else origin}]"
            + (f"   {knob.unit}" if knob.unit else ""),
        ),
        ("rule", knob.rule),
        ("choices", ", ".join(knob.choices)),
        ("why", knob.why),
        ("too low", knob.too_low),
        ("too high", knob.too_high),
        *((f"question {number}", f"{question.value}: {how}") for number, question, how in touched),
        ("questions", "" if touched else "touches none of the six"),
        *((code.code, code.when) for code in codes),
        ("on resume", "may change" if knob.may_change and not knob.plan_only else ""),
        *experiment(knob, base, trial),
    ]
    facts = {
        "knob": knob.name,
        "flags": list(knob.flags),
        "switches": [option(name) for name in knob.switches],
        "variable": knob.variable,
        "layer": knob.layer.value,
        "unit": knob.unit,
        "choices": list(knob.choices),
        "value": value,
        "origin": str(origin),
        "rule": knob.rule,
        "why": knob.why,
        "too_low": knob.too_low,
        "too_high": knob.too_high,
        "questions": {question.value: how for _, question, how in touched},
        "warnings": list(knob.warnings),
        "may_change": knob.may_change,
        "experiment": {
            "base": shlex.join(["picollm", "plan" if runs_nothing(knob) else "train", *BASE]),
            "trial": shlex.join(["picollm", "plan" if runs_nothing(knob) else "train", *trial_words(knob)]),
            "seconds": base.estimate.seconds + trial.estimate.seconds if base and trial else None,
        },
    }
    return Explanation(f"{knob.flag}", "knob", tuple(lines), (), facts)


def explain_code(code: Code, plan: TrainPlan) -> Explanation:
    """A warning or an error, and whether it is in this plan."""
    now = [str(warning) for warning in plan.warnings if warning.code == code.code]
    now += [problem.message for problem in plan.problems if problem.message.startswith(code.code)]
    lines = [
        ("when", code.when),
        ("said by", code.by),
        ("why", code.why),
        ("remedy", code.remedy),
        ("knobs", ", ".join(option(name) for name in code.knobs)),
        ("in this plan", "; ".join(now) or "no"),
    ]
    if code.code.startswith("W"):
        lines.append(("silence", f"picollm plan --quiet-warnings {code.code}"))
    facts = {"code": code.code, "when": code.when, "by": code.by, "why": code.why, "remedy": code.remedy}
    return Explanation(code.code, "code", tuple(lines), (), facts | {"knobs": list(code.knobs), "now": now})


def explain_defaults(plan: TrainPlan) -> Explanation:
    """Every knob: value, where it came from, and its rule (K50)."""
    notes: list[str] = []
    facts = {}
    for layer in Layer:
        notes.append(f" {layer_name(layer).upper()}")
        for knob in (knob for knob in KNOBS if knob.layer is layer):
            value, origin = value_of(plan, knob), plan.origins[knob.name]
            source = f"rule: {knob.rule}" if origin.source == "rule" else str(origin)
            notes.append(f"   {knob.flag:<26} {shown(value):<14} {source}")
            facts[knob.name] = {"value": value, "origin": str(origin), "rule": knob.rule, "why": knob.why}
    topic = f"every default on {plan.machine}, as picollm plan would use it now (picollm explain KNOB tells why)"
    return Explanation(topic, "defaults", (), tuple(notes), {"knobs": facts})


def explain_loss(plan: TrainPlan) -> Explanation:
    """What the number in the log means, and what to expect of it for this vocabulary."""
    vocab = plan.model.vocab_size
    first = math.log(vocab)
    lines = (
        ("what", "mean surprise per token, in nats: the natural logarithm of how many equally likely tokens the model"),
        (" ", "is choosing between. Loss 3.0 is a choice among e^3 = 20 tokens."),
        ("at step 0", f"ln {vocab:,} = {first:.2f}: an untrained model holds every token for equally likely"),
        ("falls", "fast while the model learns which tokens are frequent, then slowly as it learns what follows what"),
        ("train", "the batch of this step, smoothed in the log over about twenty steps: noisy, and flattering when"),
        (" ", "text repeats"),
        ("validation", "documents that were never trained on. When it rises while training falls, the model learns by"),
        (" ", "heart: use the best checkpoint, take more text"),
        ("bits/byte", "loss x tokens / (bytes x ln 2). Tokens of another vocabulary hold more or less text, so their"),
        (" ", "losses cannot be compared; bits per byte can"),
        ("not finite", "a rate too high, nearly always: the step is skipped, three in a row lead back or stop (E501)"),
        ("try", "picollm runs watch: the loss of the run that is going on"),
    )
    facts = {"first_loss": first, "vocab_size": vocab, "text": [f"{label}: {text}" for label, text in lines]}
    return Explanation("loss", "idea", lines, (), facts)


@dataclass(frozen=True)
class Format:
    """A number format. `since`: compute capability with units for it. `bits`: exponent and mantissa."""

    name: str
    size: int
    bits: str
    since: tuple[int, int] | None
    scaler: str
    offered: bool


# Exponent and mantissa bits: IEEE 754 (fp32, fp16), NVIDIA's A100 and H100 white papers (tf32, bf16, fp8 E4M3).
FORMATS = (
    Format("fp32", 4, "8+23", None, "no", True),
    Format("tf32", 4, "8+10", (8, 0), "no", False),
    Format("fp16", 2, "5+10", (5, 3), "yes", False),
    Format("bf16", 2, "8+7", (8, 0), "no", True),
    Format("fp8", 1, "4+3", (8, 9), "per tensor", True),
)


def supported(form: Format, machine: Machine) -> str:
    """`yes`, or what it would need."""
    if form.since is None:
        return "yes"
    needs = f"needs SM {form.since[0]}{form.since[1]}+"
    if machine.device != "cuda":
        return "slow, on request" if form.name == "bf16" else needs
    if machine.capability is None:
        return "unknown"
    return "yes" if machine.capability >= form.since else needs


def dtype_table(machine: Machine) -> list[dict[str, Any]]:
    """K35: each format on this machine."""
    notes = {
        "fp32": "the reference; weights are always kept in it",
        "tf32": "what fp32 matmuls become on CUDA: not a choice",
        "fp16": "not offered: its range is small, bf16 does the same work",
        "bf16": "the range of fp32 in half the bytes",
        "fp8": "--fp8: training matmuls only, on top of bf16",
    }
    return [
        {
            "name": form.name,
            "supported": supported(form, machine),
            "bytes": form.size,
            "bits": form.bits,
            "scaler": form.scaler,
            "note": notes[form.name],
        }
        for form in FORMATS
    ]


def explain_dtype(knob: Knob, plan: TrainPlan, machine: Machine, **plans: TrainPlan | None) -> Explanation:
    """The knob `dtype` and the formats on this machine."""
    known = explain_knob(knob, plan, **plans)
    rows = dtype_table(machine)
    head = f" {'format':<7} {'here':<18} {'bytes':>5}  {'exp+mantissa':<13} {'needs a scaler':<15} "
    table = [head]
    table += [
        f" {r['name']:<7} {r['supported']:<18} {r['bytes']:>5}  {r['bits']:<13} {r['scaler']:<15} {r['note']}"
        for r in rows
    ]
    return Explanation(known.topic, known.kind, known.lines, tuple(table), {**known.facts, "formats": rows})


def explain_at(knob: Knob, plans: Sequence[TrainPlan], bytes_per_token: Mapping[int, float]) -> Explanation:
    """One row per plan: what each value of `knob` costs. `bytes_per_token`: measured, by vocabulary."""
    rows = [row_of(knob, plan, bytes_per_token) for plan in plans]
    vocabulary = knob.name == "vocab_size"
    notes = list(table(rows, vocabulary))
    if vocabulary and any(row["bytes_per_token"] is None for row in rows):
        notes.append(
            " bytes/token is measured where shards with that vocabulary lie here: picollm tok train, picollm shard"
        )
    depth = plans[0].model.depth
    topic = f"{knob.flag} at {', '.join(shown(value_of(plan, knob)) for plan in plans)}"
    topic += "" if knob.name == "depth" else f", depth {depth}"
    return Explanation(topic, "table", (), tuple(notes), {"knob": knob.name, "rows": rows})


def row_of(knob: Knob, plan: TrainPlan, bytes_per_token: Mapping[int, float]) -> dict[str, Any]:
    counts, model = count(plan.model), plan.model
    tokens = plan.device_batch * plan.seq_len
    return {
        "value": value_of(plan, knob),
        "params": counts.total,
        "matrices": counts.matrices,
        "embedding_share": counts.embedding_share,
        "flops_per_token": flops_per_token(model),
        "tokens": plan.tokens,
        "tokens_per_step": plan.tokens_per_step,
        "rows": plan.device_batch,
        "logits_chunked": plan.memory.logits,
        "logits_whole": tokens * model.padded_vocab * LOGIT_BYTES[plan.dtype],
        "memory": plan.memory.total,
        "seconds": plan.estimate.seconds or None,
        "bytes_per_token": bytes_per_token.get(model.vocab_size),
    }


def table(rows: Sequence[Mapping[str, Any]], vocabulary: bool) -> Iterator[str]:
    """Aligned columns. The same text in tokens is told per megabyte, where bytes per token are known."""
    heads = [
        "value",
        "params",
        "embeddings",
        "FLOPs/token",
        "run tokens",
        "rows",
        "logits GiB",
        "unchunked",
        "memory GiB",
    ]
    heads += ["time"] + (["bytes/token", "tokens per MB"] if vocabulary else [])
    cells = [heads] + [[*common_cells(row), *(vocabulary_cells(row) if vocabulary else ())] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(heads))]
    for line in cells:
        yield " " + "  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True))


def common_cells(row: Mapping[str, Any]) -> Iterable[str]:
    yield shown(row["value"])
    yield short(row["params"])
    yield f"{100 * row['embedding_share']:.0f} %"
    yield f"{row['flops_per_token']:.3e}"
    yield short(row["tokens"])
    yield f"{row['rows']}"
    yield f"{row['logits_chunked'] / GIB:.2f}"
    yield f"{row['logits_whole'] / GIB:.2f}"
    yield f"{row['memory'] / GIB:.1f}"
    yield duration(row["seconds"]) if row["seconds"] else "unknown"


def vocabulary_cells(row: Mapping[str, Any]) -> Iterable[str]:
    measured = row["bytes_per_token"]
    yield f"{measured:.2f}" if measured else "not measured"
    yield f"{1e6 / measured:,.0f}" if measured else "-"


def is_numeric(knob: Knob) -> bool:
    """Whether `--at 1,2,3` makes sense."""
    return knob.kind in (Kind.INT, Kind.COUNT, Kind.NUMBER)
