"""Other people's dashboards, on request: `--log tensorboard,wandb,trackio`. `metrics.jsonl` is written in any case.

Each gets the numbers of the `step` and `eval` lines by step. Its package is imported only when asked for, before the
first step; what it cannot do later is said once and never stops the training.
"""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from picollm.errors import MissingError, UsageError

PROJECT = "picollm"
KINDS = ("step", "eval")


class Tracker(Protocol):
    """Takes numbers of one step, in the order of steps; a run that goes back or resumes repeats some."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files in `tensorboard/` of the run."""

    def __init__(self, directory: Path, run: str, facts: Mapping[str, Any], step: int) -> None:
        writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        self.writer = writer(str(directory / "tensorboard"), purge_step=step + 1 if step else None)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class Remote:
    """W&B and trackio, which share their words. `WANDB_MODE=offline` and trackio's local folder need no network."""

    module: Any

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self.module.log(dict(values), step=step)

    def close(self) -> None:
        self.module.finish()


class Wandb(Remote):
    """Weights & Biases; one run of ours is one of theirs, resumed under the same id."""

    def __init__(self, directory: Path, run: str, facts: Mapping[str, Any], step: int) -> None:
        self.module = importlib.import_module("wandb")
        self.module.init(project=PROJECT, name=run, id=run, resume="allow", dir=str(directory), config=dict(facts))


class Trackio(Remote):
    """Hugging Face's local dashboard."""

    def __init__(self, directory: Path, run: str, facts: Mapping[str, Any], step: int) -> None:
        self.module = importlib.import_module("trackio")
        self.module.init(project=PROJECT, name=run, resume="allow", config=dict(facts))


TRACKERS: dict[str, Callable[[Path, str, Mapping[str, Any], int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
}


def names(said: str | None) -> list[str]:
    """`tensorboard, wandb` → both. Raises UsageError for one that is not known."""
    found = [name.strip() for name in (said or "").split(",") if name.strip()]
    if unknown := [name for name in found if name not in TRACKERS]:
        raise UsageError(f"--log {unknown[0]}: not known", hint=f"--log {','.join(TRACKERS)}")
    return list(dict.fromkeys(found))


def open_trackers(said: str | None, directory: Path, facts: Mapping[str, Any], step: int) -> dict[str, Tracker]:
    """The trackers asked for, open for a run that stands at `step`. Raises MissingError where a package is absent."""
    made: dict[str, Tracker] = {}
    for name in names(said):
        try:
            made[name] = TRACKERS[name](directory, directory.name, facts, step)
        except ImportError as error:
            for tracker in made.values():
                tracker.close()
            raise MissingError(
                f"--log {name}: {error}", hint=f"pip install 'picollm-train[{name}]', or leave --log out"
            ) from None
    return made


def numbers_of(kind: str, fields: Mapping[str, Any]) -> dict[str, float]:
    """`train/loss`, `val/bpb` …: what of a line is a number that a curve can show."""
    if kind not in KINDS:
        return {}
    prefix = "train" if kind == "step" else str(fields.get("name", kind))
    return {
        f"{prefix}/{name}": float(value)
        for name, value in fields.items()
        if name != "step" and isinstance(value, int | float) and not isinstance(value, bool)
    }
