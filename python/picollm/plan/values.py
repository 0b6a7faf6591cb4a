"""The value that a plan uses for each knob, said or not, as a plain value and as text."""

from collections.abc import Callable, Mapping
from typing import Any

from picollm.plan.knobs import BY_NAME, Knob
from picollm.plan.laws import WARMDOWN_SHARE
from picollm.plan.rates import base_rates
from picollm.plan.trainplan import TrainPlan

UNSAID = "—"
ON_OFF = {True: "on", False: "off"}


def _base_rate(role: str) -> Callable[[TrainPlan], float]:
    """The rate of a group before batch and width scaling."""
    names = ("learning_rate", "embedding_lr", "unembedding_lr", "scalar_lr")
    return lambda plan: base_rates(*(plan.request.get(name) for name in names))[role]


def _said(name: str, unsaid: Any) -> Callable[[TrainPlan], Any]:
    return lambda plan: plan.request.get(name, unsaid)


def _minutes(plan: TrainPlan) -> float | None:
    return plan.estimate.seconds / 60 if plan.estimate.seconds else None


READERS: Mapping[str, Callable[[TrainPlan], Any]] = {
    "dataset_name": _said("dataset_name", None),
    "dataset_config": _said("dataset_config", None),
    "dataset_split": _said("dataset_split", None),
    "text_column": _said("text_column", None),
    "shards": lambda plan: plan.data.path if plan.data else plan.request.get("shards"),
    "val_shards": lambda plan: (plan.data and plan.data.val_path) or plan.request.get("val_shards"),
    "seed": lambda plan: plan.seed,
    "max_epochs": lambda plan: plan.max_epochs,
    "tokenizer": lambda plan: plan.data.tokenizer_sha256[:12] if plan.data else plan.request.get("tokenizer"),
    "vocab_size": lambda plan: plan.model.vocab_size,
    "max_seq_len": lambda plan: plan.seq_len,
    "packing": lambda plan: plan.packing,
    "depth": lambda plan: plan.model.depth,
    "aspect_ratio": lambda plan: plan.model.width / plan.model.depth,
    "hidden_size": lambda plan: plan.model.width,
    "heads": lambda plan: plan.model.heads,
    "head_dim": lambda plan: plan.model.head_dim,
    "kv_heads": lambda plan: plan.model.kv_heads,
    "window_pattern": lambda plan: plan.model.window_pattern,
    "arch": lambda plan: plan.model.arch,
    "value_embeds": lambda plan: bool(plan.model.value_layers),
    "backout": lambda plan: bool(plan.model.backout),
    "smear": lambda plan: bool(plan.model.smear),
    "num_iterations": lambda plan: plan.steps,
    "target_flops": lambda plan: float(plan.flops),
    "target_param_data_ratio": lambda plan: plan.ratio,
    "max_minutes": _minutes,
    "budget": lambda plan: plan.estimate.dollars(plan.ranks) if plan.estimate.price else None,
    "total_batch_size": lambda plan: plan.tokens_per_step,
    "device_batch_size": lambda plan: plan.device_batch,
    "auto_batch": _said("auto_batch", False),
    "grad_accum": lambda plan: plan.micro_steps,
    "learning_rate": _base_rate("matrix"),
    "embedding_lr": _base_rate("embed"),
    "unembedding_lr": _base_rate("unembed"),
    "scalar_lr": _base_rate("x0_scale"),
    "weight_decay": lambda plan: plan.schedule.decay,
    "warmup_steps": lambda plan: plan.schedule.warmup,
    "warmdown_ratio": _said("warmdown_ratio", WARMDOWN_SHARE),
    "device": lambda plan: plan.device,
    "dtype": lambda plan: plan.dtype,
    "fp8": lambda plan: ON_OFF[plan.fp8],
    "recompute": lambda plan: plan.recompute,
    "compile": lambda plan: ON_OFF[plan.compile],
    "nproc": lambda plan: plan.ranks,
    "workers": lambda plan: plan.workers,
    "gpu": lambda plan: plan.machine,
    "peak_flops": _said("peak_flops", None),
    "step_time": lambda plan: plan.estimate.seconds / plan.steps if plan.estimate.seconds else None,
    "price_per_gpu_hour": lambda plan: plan.estimate.price or None,
    "name": lambda plan: plan.name,
    "runs_dir": _said("runs_dir", "runs"),
    "resume": _said("resume", "auto"),
    "stop_after": lambda plan: str(plan.stop_after) if plan.stop_after else None,
    "save_every": lambda plan: str(plan.save_every),
    "keep": lambda plan: plan.keep,
    "eval_every": lambda plan: plan.eval_every,
    "val_tokens": lambda plan: plan.val_tokens,
    "log": _said("log", None),
}


def value_of(plan: TrainPlan, knob: Knob) -> Any:
    """What `plan` uses for this knob; None where there is no such thing (no price, no shards)."""
    return READERS[knob.name](plan)


def shown(value: Any) -> str:
    """A value for people: thousands in groups, rates in four digits."""
    if value is None:
        return UNSAID
    if isinstance(value, bool):
        return ON_OFF[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}".replace("e+", "e")
    return str(value)


def values(plan: TrainPlan) -> dict[str, Any]:
    """Every knob's value, in the order of the registry."""
    return {name: value_of(plan, knob) for name, knob in BY_NAME.items()}
