"""Which model is meant: a run's name, a path, or nothing said (decision 4). Reads folder names and exit.json only."""

import json
from pathlib import Path

from picollm.errors import MissingError

EXIT = "exit.json"
FINISHED = "finished"  # the reason that `train.run` gives for a run that reached its last step
CHECKPOINTS = "checkpoints"
MAKE_ONE = "picollm quickstart, or picollm train"


def checkpoints(run: Path) -> list[Path]:
    """Folders that may be checkpoints of `run`; whether they are whole is found on loading."""
    return [path for path in (run / CHECKPOINTS).glob("step-*") if path.is_dir() and path.name[5:].isdigit()]


def finished(run: Path) -> float | None:
    """When the run reached its end (seconds since 1970), or None: still going, stopped early, failed."""
    try:
        said = json.loads((run / EXIT).read_bytes())
        ended = isinstance(said, dict) and said.get("reason") == FINISHED and said.get("code") == 0
        return (run / EXIT).stat().st_mtime if ended else None
    except (OSError, ValueError):
        return None


def find_model(said: str | None, runs: Path) -> Path:
    """The run or checkpoint folder. Unsaid: the run that finished last, else the newest with a checkpoint.

    Raises MissingError with what there is, or with the command that makes one.
    """
    known = sorted(path for path in runs.glob("*") if checkpoints(path)) if runs.is_dir() else []
    if said is not None:
        for path in (runs / said, Path(said)):
            if path.is_dir():
                return path
        names = ", ".join(path.name for path in known) or "none"
        raise MissingError(f"no model {said!r}: no such folder, and the runs in {runs} are: {names}", hint=MAKE_ONE)
    if not known:
        raise MissingError(f"no model yet: no run with a checkpoint in {runs}", hint=MAKE_ONE)

    def age(run: Path) -> tuple[bool, float, str]:
        ended = finished(run)
        newest = max(path.stat().st_mtime for path in checkpoints(run))
        return ended is not None, ended if ended is not None else newest, run.name

    return max(known, key=age)
