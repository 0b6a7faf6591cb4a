"""The runs under a folder as their files tell them, also while they are being written. No torch."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picollm.errors import MissingError, PicoError
from picollm.plan.trainplan import TrainPlan
from picollm.runtime import runlog

PLAN, EXIT = "plan.json", "exit.json"
SILENT_SECONDS = 120.0  # a run whose log has not grown for so long, or for ten steps, has probably been killed
SILENT_STEPS = 10
STOPPED = (75, 130, 143)


@dataclass(frozen=True)
class RunFiles:
    """One run. `plan` is None where plan.json is missing or of another version; `exit` is {} while it goes on."""

    path: Path
    plan: TrainPlan | None
    exit: dict[str, Any]
    lines: list[dict[str, Any]]
    changed: float  # seconds since 1970 of the newest file

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line.get("kind") == kind]

    def curve(self, metric: str) -> dict[int, float]:
        """Step → value, from the `eval` lines for "bpb", else from the `step` lines; finite values only."""
        found = self.of("eval" if metric == "bpb" else "step")
        return {line["step"]: line[metric] for line in found if "step" in line and is_number(line.get(metric))}

    @property
    def step(self) -> int:
        return max((line["step"] for line in self.of("step")), default=0)

    @property
    def best(self) -> tuple[int, float] | None:
        """Step and bits per byte of the best validation, the earliest among equals."""
        return min(self.curve("bpb").items(), key=lambda point: (point[1], point[0]), default=None)

    @property
    def seconds(self) -> float:
        """Time on the run's own clock."""
        return max((line.get("t") or 0.0 for line in self.lines), default=0.0)

    @property
    def seconds_per_step(self) -> float | None:
        """Median of the last twenty steps without evaluation, save or compilation in them."""
        quiet = [line["dt_ms"] for line in self.of("step") if not line.get("flags") and is_number(line.get("dt_ms"))]
        last = sorted(quiet[-20:])
        return last[len(last) // 2] / 1000 if last else None

    def state(self, now: float) -> str:
        """`finished`, `stopped`, `failed (5)`, `running` or, where the log has fallen silent, `silent`."""
        code = self.exit.get("code")
        if type(code) is int:
            return {0: "finished" if self.exit.get("reason") == "finished" else "stopped"}.get(
                code, "stopped" if code in STOPPED else f"failed ({code})"
            )
        if not self.lines:
            return "not begun"
        patience = max(SILENT_SECONDS, SILENT_STEPS * (self.seconds_per_step or 0.0))
        return "running" if now - self.changed < patience else "silent"


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_run(path: Path) -> RunFiles:
    """What the files say now; a file that is missing, torn or not ours says nothing."""
    metrics = path / runlog.METRICS
    lines = [line for line in runlog.read(metrics) if isinstance(line, dict)] if metrics.is_file() else []
    changed = max((file.stat().st_mtime for file in (metrics, path / EXIT, path / PLAN) if file.exists()), default=0.0)
    return RunFiles(path, plan_of(path), read_object(path / EXIT), lines, changed)


def plan_of(path: Path) -> TrainPlan | None:
    try:
        return TrainPlan.from_json(read_object(path / PLAN)["plan"])
    except (PicoError, KeyError, TypeError):
        return None


def read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def is_run(path: Path) -> bool:
    return (path / PLAN).is_file() or (path / runlog.METRICS).is_file()


def all_runs(folder: Path) -> Iterator[RunFiles]:
    """The runs in `folder`, the most recently changed first."""
    found = [read_run(path) for path in sorted(folder.glob("*")) if is_run(path)] if folder.is_dir() else []
    yield from sorted(found, key=lambda run: run.changed, reverse=True)


def find_run(said: str | None, folder: Path) -> RunFiles:
    """The run of this name or at this path; unsaid, the one that changed last. Raises MissingError."""
    if said is None:
        newest = next(all_runs(folder), None)
        if newest is None:
            raise MissingError(f"no run in {folder}", hint="picollm quickstart, or picollm train")
        return newest
    path = next((path for path in (folder / said, Path(said)) if is_run(path)), None)
    if path is None:
        there = ", ".join(run.name for run in all_runs(folder)) or "none"
        raise MissingError(f"no run {said!r}; in {folder}: {there}", hint="picollm runs list")
    return read_run(path)


def ago(seconds: float) -> str:
    """`now`, `5 min`, `3 h`, `2 days` ago."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size * (2 if unit == "days" else 1):
            return f"{seconds / size:.0f} {unit} ago"
    return "now"


def clock() -> float:
    return time.time()
