"""Eight real steps of a plan, on this machine and on as many processes as it has."""

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from picollm.cli.train import launch
from picollm.errors import UsageError
from picollm.layout import Layout
from picollm.plan.measured import Measured
from picollm.plan.request import TrainRequest
from picollm.plan.trainplan import TrainPlan
from picollm.runtime import durable

PLAN, FIGURES = "plan.json", "figures.json"


def measured(plan: TrainPlan, request: TrainRequest) -> Measured:
    """The figures. Raises UsageError for another machine's plan, OutOfMemoryError where a step does not fit.

    With several processes a failure of theirs has been said by them; this process leaves with its code.
    """
    if request.gpu not in (None, "auto"):
        raise UsageError(f"--measure takes steps here, and --gpu {request.gpu} is elsewhere", hint="leave one out")
    if plan.ranks == 1:
        from picollm.train.run import measure_here

        return measure_here(plan)
    with tempfile.TemporaryDirectory() as folder:
        durable.write_json(Path(folder) / PLAN, plan.to_json())
        if code := launch(plan.ranks, ["--measure-plan", str(Path(folder) / PLAN)]):
            sys.exit(code)
        return Measured.from_json(durable.read_json(Path(folder) / FIGURES))


def measure_into(path: Path) -> None:
    """What each of several processes does: measure the plan in `path`; rank 0 leaves the figures beside it."""
    from picollm.train.run import measure_here

    found = measure_here(TrainPlan.from_json(durable.read_json(path)))
    if os.environ.get("RANK", "0") == "0":
        durable.write_json(path.parent / FIGURES, found.to_json())


def keep(plan: TrainPlan, request: TrainRequest) -> Path | None:
    """Leave the measured plan for its run to find; None where there are no shards, and so no run."""
    from picollm.train.opening import keep_measured

    if plan.data is None:
        return None
    runs = Path(request.runs_dir) if request.runs_dir else Layout.from_env().runs
    return keep_measured(replace(plan, warnings=(), notes=()), runs / plan.name)
