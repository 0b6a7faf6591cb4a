"""Which run a request means, and whether it starts, goes on or is finished. Rank 0's business; no torch."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from picollm.ckpt import protocol
from picollm.ckpt.schema import STEP_NAME
from picollm.errors import CheckError, MissingError, PicoError, PlanMismatch, UsageError
from picollm.plan import config as toml
from picollm.plan.facts import DataFacts
from picollm.plan.knobs import TIMED
from picollm.plan.request import RESUME_WORDS, TrainRequest
from picollm.plan.resolve import resolve
from picollm.plan.speed import with_measured
from picollm.plan.trainplan import TrainPlan, same_run
from picollm.runtime import durable
from picollm.runtime.machine import Machine

PLAN = "plan.json"
CONFIG = "config.toml"
EXIT = "exit.json"
CHECKPOINTS = "checkpoints"
MEASURED, MEASURED_FORMAT = "measured.json", "picollm-measured/1"
FORMAT = "picollm-run/1"
PRIVATE = 0o700


@dataclass(frozen=True)
class Opened:
    """A run that is ours. `resume`: the checkpoint to go on from. `measure`: its length awaits a measured rate."""

    directory: Path
    plan: TrainPlan
    resume: Path | None = None
    finished: bool = False
    measure: bool = False
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "directory": str(self.directory),
            "plan": self.plan.to_json(),
            "resume": str(self.resume) if self.resume else None,
            "finished": self.finished,
            "measure": self.measure,
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Opened":
        resume = Path(value["resume"]) if value["resume"] else None
        plan = TrainPlan.from_json(value["plan"])
        notes = tuple(value["notes"])
        return cls(Path(value["directory"]), plan, resume, value["finished"], value["measure"], notes)


def read_plan(directory: Path) -> TrainPlan | None:
    """The plan a run was started with; None where no run is. Raises CheckError on a file we did not write."""
    path = directory / PLAN
    if not path.is_file():
        return None
    try:
        value = durable.read_json(path)
        if value["format"] != FORMAT:
            raise ValueError(f"format is not {FORMAT}")
        return TrainPlan.from_json(value["plan"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckError(f"{path}: not a plan ({error})", hint="start afresh under another --name") from None


def named_run(request: TrainRequest, runs: Path) -> tuple[TrainRequest, Path | None]:
    """The request with what `--resume RUN` already knows, and that run's folder. Raises MissingError."""
    if request.resume in RESUME_WORDS:
        return request, None
    assert request.resume is not None
    directory = next((path for path in (runs / request.resume, Path(request.resume)) if (path / PLAN).is_file()), None)
    if directory is None:
        there = ", ".join(sorted(path.parent.name for path in runs.glob(f"*/{PLAN}"))) or "none"
        raise MissingError(f"no run {request.resume!r}; in {runs}: {there}", hint="picollm train --resume auto")
    plan = read_plan(directory)
    assert plan is not None
    said = {"shards": plan.data.path} if plan.data else {}
    known = {**said, **plan.request, **{name: value for name, value in request.to_json().items() if name != "resume"}}
    return TrainRequest.from_json(known, {**plan.origins, **request.origins}), directory


FactsOf = Callable[[TrainRequest], DataFacts | None]


def open_run(request: TrainRequest, runs: Path, machine: Machine, facts_of: FactsOf, hold: ExitStack) -> Opened:
    """Resolve the request, lock the run it means (until `hold` is closed) and find where it stands.

    Raises what the plan's problems say, PlanMismatch, UsageError, BusyError, MissingError or CheckpointError. Nothing
    is created before the plan is known to be able to run.
    """
    request, directory = named_run(request, runs)
    data = facts_of(request)
    plan = resolve(request, machine, data)
    directory = directory or runs / plan.name
    saved = read_plan(directory)
    if saved is None:
        plan.require()
        enter(directory, hold)
        return Opened(directory, informed(plan, directory), measure=plan.horizon in TIMED)
    if request.resume == "never":
        raise UsageError(f"{directory} exists", hint="--name another, or --resume auto to go on with it")
    if saved.horizon in TIMED and plan.horizon == saved.horizon:  # its length was measured once and stays
        plan = resolve(request, machine, data, speed=saved.estimate.flops_per_second, depth=saved.model.depth)
    if differ := same_run(saved, plan):
        raise PlanMismatch(
            f"{directory} was started with another plan: {'; '.join(differ)}",
            hint="give the options it was started with, or another --name",
        )
    plan = replace(plan.require(), name=saved.name)
    if saved.measured and placement(saved) == placement(plan):
        plan = with_measured(plan, saved.measured)
    enter(directory, hold)
    return standing(directory, plan)


def keep_measured(plan: TrainPlan, directory: Path) -> Path:
    """Leave the figures of `plan --measure` where the run of this plan will look for them."""
    try:
        directory.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
    except OSError as error:
        raise durable.failure(directory, "create", error) from error
    durable.write_json(directory / MEASURED, {"format": MEASURED_FORMAT, "plan": plan.to_json()})
    return directory / MEASURED


def informed(plan: TrainPlan, directory: Path) -> TrainPlan:
    """The plan with figures that were measured for it on these devices; without, where there are none that fit."""
    try:
        value = durable.read_json(directory / MEASURED)
        prior = TrainPlan.from_json(value["plan"]) if value["format"] == MEASURED_FORMAT else None
    except (PicoError, ValueError, KeyError, TypeError):
        return plan  # estimates do
    if prior is None or prior.measured is None or plan.horizon in TIMED:
        return plan
    if same_run(prior, plan) or placement(prior) != placement(plan):
        return plan
    return with_measured(plan, prior.measured)


def placement(plan: TrainPlan) -> tuple[object, ...]:
    """What of a plan decides its speed and memory beside its sizes."""
    return plan.device, plan.machine, plan.ranks, plan.device_batch, plan.compile, plan.workers


def enter(directory: Path, hold: ExitStack) -> None:
    """Become the run's only trainer, and clear away what killed ones left."""
    try:
        directory.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
    except OSError as error:
        raise durable.failure(directory, "create", error) from error
    hold.enter_context(durable.lock(directory))
    protocol.sweep(directory / CHECKPOINTS)


def standing(directory: Path, plan: TrainPlan) -> Opened:
    notes: list[str] = []
    newest = protocol.newest(directory / CHECKPOINTS, notes.append)
    match = STEP_NAME.fullmatch(newest.name) if newest else None
    finished = match is not None and int(match[1]) >= plan.steps
    return Opened(directory, plan, newest, finished, notes=tuple(notes))


def begin(opened: Opened, versions: dict[str, str]) -> None:
    """Write the files that say what this run is: once; `plan.json` is the authority on every resume."""
    plan = opened.plan
    (opened.directory / EXIT).unlink(missing_ok=True)
    if (opened.directory / PLAN).exists():
        return
    assert plan.data is not None
    durable.write(opened.directory / CONFIG, toml.write(repeatable(plan)).encode())
    hashes = {"shards": plan.data.fingerprint, "tokenizer": plan.data.tokenizer_sha256}
    value = {"format": FORMAT, "plan": plan.to_json(), "versions": versions, "hashes": hashes}
    durable.write_json(opened.directory / PLAN, value)


def repeatable(plan: TrainPlan) -> dict[str, Any]:
    """What `--config` should say for such a run again: not its name, and no vocabulary that only a preset proposed."""
    left_out = {"name", "resume", "nproc", "runs_dir"}
    if "vocab_size" in plan.origins and plan.origins["vocab_size"].source != "flag":
        left_out.add("vocab_size")
    return {name: value for name, value in plan.request.items() if name not in left_out}
