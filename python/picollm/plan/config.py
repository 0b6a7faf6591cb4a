"""A request as a TOML file: one table per layer, one key per knob. Any spelling of a knob is read."""

import json
import tomllib
from collections.abc import Mapping
from typing import Any

from picollm.errors import UsageError
from picollm.plan.knobs import KNOBS, Layer, find

TABLES = {Layer.DATA: "data", Layer.TOKENS: "tokens", Layer.MODEL: "model", Layer.EFFORT: "effort", Layer.RUN: "run"}


def write(said: Mapping[str, Any]) -> str:
    """`TrainRequest.to_json()` as TOML text, knobs in the order of the registry."""
    lines = []
    for layer, table in TABLES.items():
        inside = [knob.name for knob in KNOBS if knob.layer is layer and knob.name in said]
        if inside:
            lines += [f"[{table}]  # {layer.value}", *(f"{name} = {_literal(said[name])}" for name in inside), ""]
    return "\n".join(lines)


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else repr(value)


def read(text: str, where: str) -> dict[str, Any]:
    """Knob name → value as written, tables flattened. Raises UsageError for broken TOML or an unknown key."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where}: {error}") from None
    values: dict[str, Any] = {}
    for key, value in document.items():
        for name, inner in value.items() if isinstance(value, dict) else ((key, value),):
            knob = find(name)
            if knob is None:
                raise UsageError(f"{where}: there is no knob {name!r}", hint="picollm plan --help lists them")
            spelled = name.replace("-", "_")
            inner = knob.switches[spelled] if inner is True and spelled in knob.switches else inner
            if values.get(knob.name, inner) != inner:
                raise UsageError(f"{where}: {knob.name} is said twice: {values[knob.name]} and {inner}")
            values[knob.name] = inner
    return values
