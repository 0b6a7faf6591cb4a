"""A run as its files tell it: plan, metrics, evaluations, verdict. Reads; hooks into nothing. No torch."""

import json
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from picollm.errors import CheckError, MissingError
from picollm.runtime import runlog

UNTIMED_STEPS = 10  # the first of a process: allocation, warm caches (TRAINING 9)

Line = dict[str, Any]


def read_json(path: Path) -> dict[str, Any]:
    """The object in `path`, {} if there is no such file. Raises CheckError on anything else."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(value, dict):
        raise CheckError(f"{path}: not a JSON object")
    return value


@dataclass(frozen=True)
class Run:
    """One run folder. `lines` is all of metrics.jsonl; `plan` is plan.json; `evals` the files under evals/ by name."""

    path: Path
    lines: list[Line]
    plan: dict[str, Any] = field(default_factory=dict)
    exit: dict[str, Any] = field(default_factory=dict)
    evals: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Run":
        """Raises MissingError where there is no run, or nothing has been logged yet."""
        metrics = path / runlog.METRICS
        if not metrics.is_file():
            raise MissingError(f"{path}: no run here (no metrics.jsonl)", hint="picollm train, or name another run")
        evals = {file.stem: read_json(file) for file in sorted((path / "evals").glob("*.json"))}
        return cls(path, runlog.read(metrics), read_json(path / "plan.json"), read_json(path / "exit.json"), evals)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def kind(self, kind: str) -> list[Line]:
        return [line for line in self.lines if line.get("kind") == kind]

    def curve(self, key: str) -> list[tuple[int, float]]:
        """(step, value) of every step line that has a finite value for `key`."""
        return [(line["step"], line[key]) for line in self.kind("step") if is_number(line.get(key))]

    @property
    def val(self) -> list[tuple[int, float]]:
        """(step, bits per byte) of every validation."""
        return [(line["step"], line["bpb"]) for line in self.kind("eval") if is_number(line.get("bpb"))]

    @property
    def best(self) -> tuple[int, float] | None:
        """Step and bits per byte of the lowest validation, the earliest among equals."""
        return min(self.val, key=lambda point: (point[1], point[0]), default=None)

    @property
    def steps_done(self) -> int:
        return max((line["step"] for line in self.kind("step")), default=0)

    @property
    def tokens_done(self) -> int:
        return max((line.get("tokens", 0) for line in self.kind("step")), default=0)

    @property
    def seconds(self) -> float:
        """Wall time of all processes of this run, by its own clock."""
        return max((line.get("t", 0.0) for line in self.lines), default=0.0)

    @property
    def timed(self) -> list[Line]:
        """Step lines whose duration says something: not the first ten, no compile, evaluation or save inside."""
        steps = self.kind("step")
        quiet = [line for line in steps if not line.get("flags")]
        return [line for line in quiet if line["step"] > steps[0]["step"] + UNTIMED_STEPS - 1] or quiet or steps

    def median(self, key: str) -> float | None:
        """Median of a field over the timed steps, None if no line has it."""
        values = [line[key] for line in self.timed if is_number(line.get(key))]
        return statistics.median(values) if values else None

    def baselines(self) -> dict[str, float]:
        """Name → bits per byte, from evals/baselines.json."""
        found = self.evals.get("baselines", {}).get("baselines", {})
        return {name: result["bpb"] for name, result in found.items() if is_number(result.get("bpb"))}


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
