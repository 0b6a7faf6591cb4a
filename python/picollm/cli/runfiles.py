"""Which runs lie in a folder, and how each is doing: what `report.run` reads, also of runs that are still going on."""

from collections.abc import Iterator
from pathlib import Path

from picollm.errors import CheckError, MissingError, PicoError
from picollm.plan.trainplan import TrainPlan
from picollm.report.run import Run
from picollm.runtime import runlog

PLAN, EXIT = "plan.json", "exit.json"
SILENT_SECONDS = 120.0  # a run whose log has not grown for so long, or for ten steps, has probably been killed
SILENT_STEPS = 10
STOPPED = (75, 130, 143)


def is_run(path: Path) -> bool:
    return (path / runlog.METRICS).is_file()


def changed(run: Run) -> float:
    """Seconds since 1970 of the newest file of the run."""
    files = (run.path / name for name in (runlog.METRICS, EXIT, PLAN))
    return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)


def plan_of(run: Run) -> TrainPlan | None:
    """The run's plan; None where plan.json is missing or of another version."""
    try:
        return TrainPlan.from_json(run.plan["plan"])
    except (PicoError, KeyError, TypeError):
        return None


def curve(run: Run, metric: str) -> dict[int, float]:
    """Step → value: bits per byte of every validation, else a field of the step lines."""
    return dict(run.val if metric == "bpb" else run.curve(metric))


def seconds_per_step(run: Run) -> float | None:
    milliseconds = run.median("dt_ms")
    return milliseconds / 1000 if milliseconds else None


def state(run: Run, now: float) -> str:
    """`finished`, `stopped`, `failed (5)`, `running` or, where the log has fallen silent, `silent`."""
    code = run.exit.get("code")
    if type(code) is int:
        if code == 0:
            return "finished" if run.exit.get("reason") == "finished" else "stopped"
        return "stopped" if code in STOPPED else f"failed ({code})"
    patience = max(SILENT_SECONDS, SILENT_STEPS * (seconds_per_step(run) or 0.0))
    return "running" if now - changed(run) < patience else "silent"


def all_runs(folder: Path) -> Iterator[Run]:
    """The runs in `folder`, the most recently changed first; of one with a damaged file, what its log says."""
    found = [read(path) for path in sorted(folder.glob("*")) if is_run(path)] if folder.is_dir() else []
    yield from sorted(found, key=changed, reverse=True)


def read(path: Path) -> Run:
    try:
        return Run.read(path)
    except CheckError:
        return Run(path, runlog.read(path / runlog.METRICS))


def find_run(said: str | None, folder: Path) -> Run:
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
    return Run.read(path)


def ago(seconds: float) -> str:
    """`now`, `5 min`, `3 h`, `2 days` ago."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size * (2 if unit == "days" else 1):
            return f"{seconds / size:.0f} {unit} ago"
    return "now"
