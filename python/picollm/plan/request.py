"""What was asked: one field per knob, None where nothing was said, and where each said value came from."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from picollm.errors import UsageError
from picollm.plan.knobs import BY_NAME, GROUPS, HORIZONS

INTERVAL = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(steps?|s|sec|min|h|usd)?")
RESUME_WORDS = (None, "auto", "never")  # of --resume; anything else is a run
SECONDS = {"s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Interval:
    """A cadence or a cap: so many steps, seconds or dollars (`unit`: "steps", "seconds", "usd")."""

    value: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """`100`, `100steps`, `15min`, `2h`, `20usd`. Raises UsageError on anything else."""
        match = INTERVAL.fullmatch(text.strip())
        if match is None or float(match[1]) <= 0:
            raise UsageError(f"{text!r} is not an interval", hint="say 100 (steps), 15min, 2h or 20usd")
        value, unit = float(match[1]), match[2] or "steps"
        if unit in SECONDS:
            return cls(value * SECONDS[unit], "seconds")
        if unit == "usd":
            return cls(value, unit)
        if value != int(value):
            raise UsageError(f"{text!r}: steps are whole")
        return cls(value, "steps")

    def __str__(self) -> str:
        if self.unit == "seconds":
            whole_minutes = self.value % 60 == 0
            return f"{self.value / 60:g}min" if whole_minutes else f"{self.value:g}s"
        return f"{self.value:g}usd" if self.unit == "usd" else f"{self.value:.0f}steps"


@dataclass(frozen=True)
class Origin:
    """Where a value came from: flag, env, config, preset or rule, and its words (`--layers`, the rule's text)."""

    source: str
    text: str

    def __str__(self) -> str:
        return f"{self.source} {self.text}".strip()


@dataclass(frozen=True)
class TrainRequest:
    """A training command, read. `origins` names the source of every said value."""

    # what the model sees
    dataset_name: str | None = None
    dataset_config: str | None = None
    dataset_split: str | None = None
    text_column: str | None = None
    shards: str | None = None
    val_shards: str | None = None
    seed: int | None = None
    max_epochs: float | None = None
    # how text becomes tokens
    tokenizer: str | None = None
    vocab_size: int | None = None
    max_seq_len: int | None = None
    packing: str | None = None
    # how large the model is
    depth: int | None = None
    aspect_ratio: float | None = None
    hidden_size: int | None = None
    heads: int | None = None
    head_dim: int | None = None
    kv_heads: int | None = None
    window_pattern: str | None = None
    arch: str | None = None
    value_embeds: bool | None = None
    backout: bool | None = None
    smear: bool | None = None
    # how hard and how long
    num_iterations: int | None = None
    target_flops: float | None = None
    target_param_data_ratio: float | None = None
    max_minutes: float | None = None
    budget: float | None = None
    total_batch_size: int | None = None
    device_batch_size: int | None = None
    auto_batch: bool | None = None
    grad_accum: int | None = None
    learning_rate: float | None = None
    embedding_lr: float | None = None
    unembedding_lr: float | None = None
    scalar_lr: float | None = None
    weight_decay: float | None = None
    warmup_steps: int | None = None
    warmdown_ratio: float | None = None
    device: str | None = None
    dtype: str | None = None
    fp8: str | None = None
    recompute: bool | None = None
    compile: str | None = None
    nproc: int | None = None
    workers: int | None = None
    gpu: str | None = None
    peak_flops: float | None = None
    step_time: float | None = None
    price_per_gpu_hour: float | None = None
    # run control
    name: str | None = None
    runs_dir: str | None = None
    resume: str | None = None
    stop_after: Interval | None = None
    save_every: Interval | None = None
    keep: int | None = None
    eval_every: int | None = None
    val_tokens: int | None = None
    log: str | None = None

    origins: Mapping[str, Origin] = field(default_factory=dict, compare=False)

    def said(self) -> dict[str, Any]:
        """The values that were said, in the order of the layers."""
        values = {knob.name: getattr(self, knob.name) for knob in map(BY_NAME.__getitem__, NAMES)}
        return {name: value for name, value in values.items() if value is not None}

    def origin(self, name: str) -> Origin:
        """Where the said value of `name` came from; said in code counts as a flag."""
        return self.origins.get(name, Origin("flag", BY_NAME[name].flag))

    def to_json(self) -> dict[str, Any]:
        """Said values only; intervals as text."""
        return {name: str(value) if isinstance(value, Interval) else value for name, value in self.said().items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], origins: Mapping[str, Origin] | None = None) -> Self:
        """Inverse of `to_json`. Raises UsageError for a knob that does not exist."""
        for name in values:
            if name not in BY_NAME:
                raise UsageError(f"there is no knob {name!r}")
        read: dict[str, Any] = {
            name: Interval.parse(value) if name in ("stop_after", "save_every") and isinstance(value, str) else value
            for name, value in values.items()
        }
        return cls(**read, origins=origins or {})

    def identity(self) -> dict[str, Any]:
        """What makes this another run: said values without places, names and all that may change on resume."""
        places = ("shards", "dataset_name", "tokenizer")
        return {
            name: value for name, value in self.to_json().items() if not BY_NAME[name].may_change and name not in places
        }


NAMES = tuple(f.name for f in fields(TrainRequest) if f.name != "origins")


def combine(*sources: tuple[str, Mapping[str, Any], Mapping[str, str]]) -> TrainRequest:
    """One request from several sources, strongest first. A source is (kind, values, words for each value).

    A stronger source that says one of a group (two horizons, width and aspect ratio) silences the group in weaker
    ones. Raises UsageError when one source says two horizons.
    """
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    silenced: set[str] = set()
    for kind, said, words in sources:
        taken = {name: value for name, value in said.items() if value is not None and name not in silenced}
        _one_horizon(taken, words)
        for name, value in taken.items():
            values[name] = value
            origins[name] = Origin(kind, words.get(name, BY_NAME[name].flag))
        silenced |= taken.keys()
        for group in GROUPS:
            if silenced & set(group):
                silenced |= set(group)
    return TrainRequest.from_json(values, origins)


def _one_horizon(values: Mapping[str, Any], words: Mapping[str, str]) -> None:
    given = [words.get(name, BY_NAME[name].flag) for name in HORIZONS if values.get(name) is not None]
    if len(given) > 1:
        raise UsageError(
            f"two horizons: {' and '.join(given)}; one decides how long the run is",
            hint="keep one; to leave early use the cap --stop-after 500steps|30min|20usd",
        )
