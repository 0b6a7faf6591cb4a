"""Pages made from the registry: `docs/knobs.md` for people, a JSON schema of a run's TOML file for editors."""

import json
from collections.abc import Iterator
from typing import Any

from picollm.plan.codes import CODES, Code
from picollm.plan.config import TABLES
from picollm.plan.explain import layer_name, questions_of
from picollm.plan.knobs import KNOBS, Kind, Knob, Layer, Question, option
from picollm.plan.presets import PRESETS

SCHEMA_DRAFT = "https://json-schema.org/draft/2020-12/schema"
TYPES: dict[Kind, Any] = {
    Kind.INT: {"type": "integer"},
    Kind.COUNT: {"type": ["integer", "string"], "examples": [4096, "10B"]},
    Kind.NUMBER: {"type": "number"},
    Kind.TEXT: {"type": "string"},
    Kind.PATH: {"type": "string"},
    Kind.FLAG: {"type": "boolean"},
    Kind.INTERVAL: {"type": ["integer", "string"], "examples": ["100steps", "15min", "20usd"]},
    Kind.DOLLARS: {"type": ["number", "string"], "examples": [20, "20usd"]},
}


def knobs_page() -> str:
    """The whole page, Markdown."""
    lines = [
        "# Knobs",
        "",
        "Written by `just knobs` from `plan/knobs.py` and `plan/codes.py`; edit those. `picollm explain KNOB`",
        "shows the same beside the value on your machine; `picollm diff A B` answers the six questions for two",
        "commands.",
        "",
        "A value comes from the first of these that says it: option, variable `PICOLLM_<KNOB>`, `--config` file,",
        "`--preset`, rule. The six questions: " + ", ".join(f"{i} {q.value}" for i, q in enumerate(Question, 1)) + ".",
    ]
    for layer in Layer:
        lines += ["", f"## {layer_name(layer)}"]
        lines += [line for knob in KNOBS if knob.layer is layer for line in knob_section(knob)]
    lines += ["", "## Presets", "", "| preset | says |", "|---|---|"]
    lines += [f"| `{name}` | {preset_words(values)} |" for name, values in PRESETS.items()]
    lines += ["", "## Warnings and errors"]
    lines += [line for code in CODES for line in code_section(code)]
    return "\n".join(lines) + "\n"


def preset_words(values: Any) -> str:
    return " ".join(f"`{option(name)} {value:g}`" if isinstance(value, float) else f"`{option(name)} {value}`"
                    for name, value in values.items())  # fmt: skip


def knob_section(knob: Knob) -> Iterator[str]:
    """One knob."""
    also = ", ".join(f"`{flag}`" for flag in (*knob.flags[1:], *map(option, knob.switches)))
    yield ""
    yield f"### `{knob.flag}`" + (f" (also {also})" if also else "")
    yield ""
    yield knob.why
    yield ""
    yield f"- unsaid: {knob.rule}"
    unit = f" ({knob.unit})" if knob.unit else ""
    values = ", ".join(f"`{choice}`" for choice in knob.choices) or knob.kind.value
    yield f"- value: {values}{unit}; variable `{knob.variable}`; in TOML `[{TABLES[knob.layer]}] {knob.name}`"
    for label, text in (("too low", knob.too_low), ("too high", knob.too_high)):
        if text:
            yield f"- {label}: {text}"
    for number, question, how in questions_of(knob):
        yield f"- question {number}, {question.value}: {how}"
    if knob.warnings:
        yield "- warnings: " + ", ".join(f"[{code}](#{code.lower()})" for code in knob.warnings)
    if knob.may_change and not knob.plan_only:
        yield "- may change when a run goes on"
    if knob.plan_only:
        yield "- only `plan` reads it"
    yield f"- try: `--preset tiny {knob.example}`"


def code_section(code: Code) -> Iterator[str]:
    """One warning or error."""
    yield ""
    yield f"### {code.code}"
    yield ""
    yield f"{code.when[0].upper()}{code.when[1:]} (said by {code.by}). {code.why}"
    yield ""
    yield f"- remedy: {code.remedy}"
    if code.knobs:
        yield "- knobs: " + ", ".join(f"`{option(name)}`" for name in code.knobs)


def toml_schema() -> dict[str, Any]:
    """JSON schema of `config.toml`: one table per layer, canonical names and other spellings."""
    tables = {}
    for layer, table in TABLES.items():
        entries = {}
        for knob in (knob for knob in KNOBS if knob.layer is layer):
            entry = {"description": f"{knob.why} Unsaid: {knob.rule}.", **value_type(knob)}
            entries[knob.name] = entry
            entries |= {alias: {**entry, "description": f"the same as {knob.name}"} for alias in knob.aliases}
        tables[table] = {
            "type": "object",
            "description": layer.value,
            "properties": entries,
            "additionalProperties": False,
        }
    title = {"title": "picollm run", "description": "What picollm plan --config and picollm train --config read."}
    return {"$schema": SCHEMA_DRAFT, **title, **closed({"properties": tables})}


def closed(value: dict[str, Any]) -> dict[str, Any]:
    """An object without any key that is not named."""
    return {"type": "object", **value, "additionalProperties": False}


def value_type(knob: Knob) -> dict[str, Any]:
    plain = {"enum": list(knob.choices)} if knob.kind is Kind.CHOICE else dict(TYPES[knob.kind])
    return {"anyOf": [plain, {"const": "auto"}]} if knob.auto else plain


def schema_text() -> str:
    return json.dumps(toml_schema(), indent=1, ensure_ascii=False) + "\n"
