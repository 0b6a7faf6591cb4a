"""`TrainPlan`: a training run, resolved. It prints, saves, compares and runs; nothing in it is left to guess."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from picollm.errors import CheckError, UsageError
from picollm.model.config import ModelConfig
from picollm.model.counts import count, flops_per_token
from picollm.plan.facts import DataFacts, Problem, Warning
from picollm.plan.measured import Measured
from picollm.plan.memory import Disk, Memory
from picollm.plan.rates import OptimPlan
from picollm.plan.request import Interval, Origin
from picollm.plan.schedule import Schedule

# What plans of earlier months do not say, and what they then did.
LATER: Mapping[str, Any] = {"fp8": False, "recompute": False}


@dataclass(frozen=True)
class Estimate:
    """Time and money. `flops_per_second` is of all devices together; 0 where unknown. `price` per device hour."""

    flops_per_second: float
    measured: bool
    seconds: float
    source: str
    price: float

    def tokens_per_second(self, model: ModelConfig) -> float:
        return self.flops_per_second / flops_per_token(model)

    def dollars(self, ranks: int) -> float:
        return self.seconds / 3600 * ranks * self.price


@dataclass(frozen=True)
class TrainPlan:
    """A run. `origins` has an entry for every value that a person could have said.

    rows_per_step G, device_batch B, micro_steps A, ranks N of the planned world; slots past G are masked.
    """

    name: str
    model: ModelConfig
    data: DataFacts | None
    horizon: str  # the knob that decided the length
    steps: int
    rows_per_step: int
    tokens_per_step: int
    device: str
    ranks: int
    device_batch: int
    micro_steps: int
    dtype: str  # "fp32" or "bf16"
    fp8: bool
    recompute: bool
    compile: bool
    workers: int
    schedule: Schedule
    optim: OptimPlan
    seed: int
    packing: str
    max_epochs: float
    eval_every: int
    val_tokens: int
    save_every: Interval
    keep: int
    stop_after: Interval | None
    memory: Memory
    disk: Disk
    estimate: Estimate
    machine: str
    warnings: tuple[Warning, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    origins: Mapping[str, Origin]
    request: Mapping[str, Any]
    measured: Measured | None = None

    @property
    def seq_len(self) -> int:
        return self.model.seq_len

    @property
    def tokens(self) -> int:
        """The true horizon."""
        return self.steps * self.tokens_per_step

    @property
    def flops(self) -> int:
        return self.tokens * flops_per_token(self.model)

    @property
    def ratio(self) -> float:
        """Tokens per scaling parameter."""
        return self.tokens / count(self.model).scaling

    @property
    def epochs(self) -> float:
        """Passes over the training tokens; 0 without shards."""
        return self.tokens / self.data.train_tokens if self.data and self.data.train_tokens else 0.0

    @property
    def masked_rows(self) -> int:
        """Slots of a step that hold no row."""
        return self.micro_steps * self.ranks * self.device_batch - self.rows_per_step

    def require(self) -> Self:
        """This plan, if it can run. Raises the first problem as its error."""
        for problem in self.problems:
            raise problem.error()
        return self

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `json.dumps`."""
        return asdict(self) | {
            "model": json.loads(self.model.to_json()),
            "optim": self.optim.to_json(),
            "save_every": str(self.save_every),
            "stop_after": str(self.stop_after) if self.stop_after else None,
            "origins": {name: [origin.source, origin.text] for name, origin in self.origins.items()},
            "warnings": [asdict(warning) for warning in self.warnings],
            "problems": [asdict(problem) for problem in self.problems],
            "notes": list(self.notes),
            "measured": self.measured.to_json() if self.measured else None,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`. Raises CheckError for anything that `to_json` would not write."""
        try:
            return cls._read(value)
        except (TypeError, KeyError, ValueError, AttributeError, UsageError) as error:
            raise CheckError(f"not a plan of this version: {type(error).__name__}: {error}") from None

    @classmethod
    def _read(cls, value: Mapping[str, Any]) -> Self:
        return cls(
            **{
                **LATER,
                **value,
                "model": ModelConfig.from_json(json.dumps(value["model"])),
                "data": DataFacts(**value["data"]) if value["data"] else None,
                "schedule": Schedule(**value["schedule"]),
                "optim": OptimPlan.from_json(value["optim"]),
                "save_every": Interval.parse(value["save_every"]),
                "stop_after": Interval.parse(value["stop_after"]) if value["stop_after"] else None,
                "memory": Memory(**value["memory"]),
                "disk": Disk(**value["disk"]),
                "estimate": Estimate(**value["estimate"]),
                "warnings": tuple(Warning(**one) for one in value["warnings"]),
                "problems": tuple(Problem(**one) for one in value["problems"]),
                "notes": tuple(value["notes"]),
                "measured": Measured.from_json(value["measured"]) if value.get("measured") else None,
                "origins": {name: Origin(*pair) for name, pair in value["origins"].items()},
            }
        )


def same_run(saved: TrainPlan, asked: TrainPlan) -> list[str]:
    """Fields in which `asked` is another run than `saved`, each as "field: old, now new"; empty: it may go on.

    Ranks, device, device batch, threads, cadences and places may change (decision 18). A dtype that only followed
    the device may follow it again.
    """
    old, new = _identity(saved), _identity(asked)
    if saved.dtype != asked.dtype and {saved.origins["dtype"].source, asked.origins["dtype"].source} == {"rule"}:
        new["dtype"] = old["dtype"]
    return [
        f"{name}: {old.get(name)}, now {new.get(name)}" for name in {**old, **new} if old.get(name) != new.get(name)
    ]


def _identity(plan: TrainPlan) -> dict[str, Any]:
    values = plan.to_json()
    flat = {f"model.{name}": value for name, value in values["model"].items()}
    flat |= {f"schedule.{name}": value for name, value in values["schedule"].items()}
    flat |= {f"optim.{name}": value for name, value in values["optim"].items()}
    if plan.data:
        flat |= {"shards": plan.data.fingerprint, "tokenizer": plan.data.tokenizer_sha256}
    if plan.data and plan.data.val_fingerprint:
        flat |= {"val_shards": plan.data.val_fingerprint}
    flat["fp8"] = values["request"].get("fp8", "off")  # what was said: `auto` may mean another thing on each machine
    kept = ("steps", "rows_per_step", "tokens_per_step", "seed", "packing", "val_tokens", "dtype")
    return flat | {name: values[name] for name in kept}
