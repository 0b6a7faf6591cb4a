"""From a request, a machine and a shard set to a plan. Pure: the same three give the same plan, on every rank."""

import hashlib
import json
import math
import re
from dataclasses import dataclass, replace

from picollm.errors import UsageError
from picollm.model.config import MAX_VOCAB, ModelConfig
from picollm.model.counts import flops_per_token
from picollm.plan import eightbit, laws
from picollm.plan.facts import DataFacts
from picollm.plan.findings import notes_of, problems_of
from picollm.plan.horizon import Horizon, device_batch, from_steps, from_tokens, given_batch, micro_steps
from picollm.plan.knobs import BY_NAME, HORIZONS
from picollm.plan.memory import Place, disk_of, largest_rows, memory_of
from picollm.plan.rates import base_rates, optim_plan
from picollm.plan.request import Interval, Origin, TrainRequest
from picollm.plan.schedule import Schedule
from picollm.plan.shapes import DEPTH, SEQ_LEN, VOCAB, Choice, choose_depth, config_of
from picollm.plan.speed import estimate_of, flop_rate
from picollm.plan.trainplan import TrainPlan
from picollm.plan.warnings import find
from picollm.runtime.machine import Machine

SEED = 1337
MAX_EPOCHS = 4.0
SAVE_EVERY = Interval(900.0, "seconds")
KEEP = 3
EVAL_MAX, EVAL_SHARE = 250, 10
VAL_MIN, VAL_MAX, VAL_SHARE = 2**14, 10_000_000, 64
WORKERS_MAX = 8
MAY_BE_ZERO = ("seed", "weight_decay", "warmup_steps", "warmdown_ratio")
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Setting:
    """What the pieces of a plan share. `speed`: measured FLOP/s of all devices together, or None."""

    request: TrainRequest
    machine: Machine
    data: DataFacts | None
    ranks: int
    speed: float | None

    def place_of(self, config: ModelConfig) -> Place:
        """Where the model must fit. Raises UsageError (E302) where eight bits were asked for and cannot be."""
        shared = self.ranks if self.machine.device == "cpu" else 1  # processes on a CPU share its memory
        memory = self.machine.memory // shared
        compiled = {"on": True, "off": False}.get(self.request.compile or "auto", self.machine.device == "cuda")
        return Place(
            self.machine.device,
            dtype_of(self.request, self.machine),
            compiled,
            memory,
            self.ranks,
            bool(self.request.recompute),
            eightbit.wanted(self.request, self.machine, compiled, config),
        )


def resolve(
    request: TrainRequest,
    machine: Machine,
    data: DataFacts | None,
    *,
    tokenizer_vocab: int | None = None,
    speed: float | None = None,
    depth: int | None = None,
) -> TrainPlan:
    """The plan of `request`. Problems that stop `train` are listed in it, `TrainPlan.require` raises them.

    `tokenizer_vocab` helps where there are no shards yet. With a horizon of time the caller measures and resolves
    again: `speed` is the measured FLOP/s of all devices together (tokens/s x FLOPs per token), `depth` that of the
    plan that was measured; on resume both come from the saved plan, so that the steps stay.
    Raises UsageError where the request contradicts itself.
    """
    check_request(request)
    check_machine(request, machine)
    at = Setting(request, machine, data, request.nproc or 1, speed)
    vocab, vocab_origin = vocabulary(request, data, tokenizer_vocab)
    horizon_knob = horizon_name(request)
    config, choice = model_of(at, vocab, horizon_knob, depth)
    horizon = horizon_of(at, config, horizon_knob)
    plan = assemble(at, config, horizon, horizon_knob, origins_of(request, vocab_origin, choice, horizon))
    notes = notes_of(plan, request, vocab_origin, choice)
    plan = replace(plan, notes=notes, problems=problems_of(plan, request, at.place_of(config), vocab_origin))
    return replace(plan, warnings=find(plan, machine))


def check_request(request: TrainRequest) -> None:
    """Raise UsageError for a number no run can have, or a name that is no folder's."""
    for name, value in request.said().items():
        flag = BY_NAME[name].flag
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not math.isfinite(value):
            raise UsageError(f"{flag} must be a finite number, not {value}")
        if name in MAY_BE_ZERO:
            if value < 0:
                raise UsageError(f"{flag} must not be negative: {value}")
        elif value <= 0:
            least = "at least 1" if isinstance(value, int) else "positive"
            raise UsageError(f"{flag} must be {least}, not {value}")
    if request.name is not None and not NAME.fullmatch(request.name):
        raise UsageError(f"--name {request.name!r}: letters, digits, dot, dash and underscore, not a dot first")


def check_machine(request: TrainRequest, machine: Machine) -> None:
    """Raise UsageError for a device that is not there."""
    if request.device not in (None, "auto", machine.device):
        hint = "install a torch build with CUDA, or say --device auto" if request.device == "cuda" else "--device auto"
        raise UsageError(f"--device {request.device}: this machine offers {machine.device} ({machine.name})", hint=hint)


def dtype_of(request: TrainRequest, machine: Machine) -> str:
    if request.dtype not in (None, "auto"):
        assert request.dtype is not None
        return request.dtype
    return "bf16" if machine.device == "cuda" and (machine.capability or (8, 0)) >= (8, 0) else "fp32"


def vocabulary(request: TrainRequest, data: DataFacts | None, tokenizer: int | None) -> tuple[int, Origin]:
    """Said, else the shards', else the tokenizer's, else 32,768 (decision 36). A preset's word yields to files."""
    said = request.vocab_size
    if said is not None and request.origin("vocab_size").source != "preset":
        origin, vocab = request.origin("vocab_size"), said
    elif data is not None:
        origin, vocab = Origin("rule", "the shards'"), data.vocab_size
    elif tokenizer is not None:
        origin, vocab = Origin("rule", "the tokenizer's"), tokenizer
    elif said is not None:
        origin, vocab = request.origin("vocab_size"), said
    else:
        origin, vocab = Origin("rule", "assumed"), VOCAB
    if not 1 <= vocab <= MAX_VOCAB:
        raise UsageError(f"vocabulary {vocab:,}: ids are stored in 16 bits, so 65,536 is the most, specials included")
    return vocab, origin


def horizon_name(request: TrainRequest) -> str:
    """The knob that decides the length; the ratio when nothing does. Raises UsageError on two."""
    given = [name for name in HORIZONS if getattr(request, name) is not None]
    if len(given) > 1:
        flags = " and ".join(BY_NAME[name].flag for name in given)
        raise UsageError(f"two horizons: {flags}", hint="keep one; to leave early use the cap --stop-after")
    return given[0] if given else "target_param_data_ratio"


def tokens_at(at: Setting, config: ModelConfig, horizon: str) -> float:
    """Tokens that the horizon gives this model, before they become whole steps."""
    request = at.request
    if horizon == "target_flops":
        assert request.target_flops is not None
        return request.target_flops / flops_per_token(config)
    if horizon == "target_param_data_ratio":
        return laws.tokens_for_ratio(request.target_param_data_ratio or laws.RATIO_TARGET, config)
    minutes = request.max_minutes
    if horizon == "budget":
        if request.price_per_gpu_hour is None:
            raise UsageError("--budget needs a price", hint="--price-per-gpu-hour 3, or PICOLLM_PRICE_PER_GPU_HOUR")
        assert request.budget is not None
        minutes = 60 * request.budget / (request.price_per_gpu_hour * at.ranks)
    assert minutes is not None
    rate = at.speed or flop_rate(at.machine, config, at.ranks)
    if not rate:
        raise UsageError(
            f"a horizon of time needs the rate of {at.machine.name}, which is unknown",
            hint="--peak-flops 4e10 (per device), or --gpu NAME",
        )
    return 60 * minutes * rate / flops_per_token(config)


def model_of(at: Setting, vocab: int, horizon: str, pinned: int | None) -> tuple[ModelConfig, Choice | None]:
    """The model, and the choice behind its depth where the budget chose it."""
    request = at.request
    depth = pinned or request.depth
    if depth is None and horizon == "target_param_data_ratio":
        if request.target_param_data_ratio is not None:
            raise UsageError("a ratio needs a size", hint="--depth 12, or another horizon")
        depth = DEPTH
    if depth is not None:
        return config_of(depth, vocab, request), None
    if horizon == "num_iterations":
        steps, seq_len = request.num_iterations, request.max_seq_len or SEQ_LEN
        assert steps is not None
        tokens = from_steps(steps, seq_len, given_batch(request, seq_len, at.ranks)).tokens
        choice = choose_depth(lambda _: tokens, lambda d: config_of(d, vocab, request))
    else:
        choice = choose_depth(lambda c: tokens_at(at, c, horizon), lambda d: config_of(d, vocab, request))
    return config_of(choice.depth, vocab, request), choice


def horizon_of(at: Setting, config: ModelConfig, horizon: str) -> Horizon:
    batch = given_batch(at.request, config.seq_len, at.ranks)
    if at.request.num_iterations is not None:
        return from_steps(at.request.num_iterations, config.seq_len, batch)
    return from_tokens(tokens_at(at, config, horizon), config.seq_len, batch)


def schedule_of(request: TrainRequest, horizon: Horizon, muon_lr: float) -> tuple[Schedule, float]:
    """The schedule, and the decay the rule wanted before the clamp."""
    share = laws.WARMDOWN_SHARE if request.warmdown_ratio is None else request.warmdown_ratio
    if not 0 <= share <= 1:
        raise UsageError(f"--warmdown-ratio is a share of the run, 0 to 1, not {share}")
    steps = horizon.steps
    wanted = laws.wanted_decay(horizon.batch.tokens, horizon.tokens)
    decay = laws.clamped_decay(wanted, muon_lr) if request.weight_decay is None else request.weight_decay
    warmup = laws.warmup_steps(steps) if request.warmup_steps is None else request.warmup_steps
    down = laws.warmdown_steps(steps, share)
    return Schedule(steps, warmup, laws.ramp_steps(steps), down, laws.FINAL_FRACTION, decay), wanted


def said_or(said: int | None, rule: int) -> int:
    return rule if said is None else said


def eval_every(steps: int) -> int:
    """A tenth of the run, 1 to 250 steps (decision 21)."""
    return max(1, min(EVAL_MAX, -(-steps // EVAL_SHARE)))


def val_tokens(tokens: int, present: int | None) -> int:
    """A 64th of the run as a power of two within 2^14 … 10 M, and what exists (decision 21)."""
    wanted = 1 << math.floor(math.log2(max(1, tokens / VAL_SHARE)))
    wanted = min(VAL_MAX, max(VAL_MIN, wanted))
    return wanted if present is None else min(wanted, present)


def rows_of(at: Setting, config: ModelConfig, step_rows: int) -> int:
    """B: as said, else what --grad-accum leaves, else the largest that fits (1 if none does)."""
    request = at.request
    if request.device_batch_size is not None:
        return request.device_batch_size
    if request.grad_accum is not None:
        return -(-step_rows // (at.ranks * request.grad_accum))
    return device_batch(step_rows, at.ranks, max(1, largest_rows(config, at.place_of(config))))


def assemble(at: Setting, config: ModelConfig, horizon: Horizon, knob: str, origins: dict[str, Origin]) -> TrainPlan:
    """The plan without what is said about it: notes, problems, warnings."""
    request, machine, data, place = at.request, at.machine, at.data, at.place_of(config)
    base = base_rates(request.learning_rate, request.embedding_lr, request.unembedding_lr, request.scalar_lr)
    optim = optim_plan(horizon.batch.tokens, horizon.steps, config.width, base)
    schedule, _ = schedule_of(request, horizon, optim.muon.lr)
    rows = rows_of(at, config, horizon.batch.rows)
    keep, save = said_or(request.keep, KEEP), request.save_every or SAVE_EVERY
    estimate = estimate_of(request, machine, config, horizon, at.ranks, at.speed)
    saves = horizon.steps / save.value if save.unit == "steps" else estimate.seconds / save.value
    epochs = horizon.tokens / data.train_tokens if data and data.train_tokens else 1.0
    present = data.train_tokens if data else 0
    wanted_val = said_or(request.val_tokens, val_tokens(horizon.tokens, data.val_tokens if data else None))
    return TrainPlan(
        name=request.name or run_name(request, data),
        model=config,
        data=data,
        horizon=knob,
        steps=horizon.steps,
        rows_per_step=horizon.batch.rows,
        tokens_per_step=horizon.batch.tokens,
        device=machine.device,
        ranks=at.ranks,
        device_batch=rows,
        micro_steps=micro_steps(horizon.batch.rows, at.ranks, rows),
        dtype=place.dtype,
        fp8=place.eight_bit,
        recompute=place.recompute,
        compile=place.compile,
        workers=said_or(request.workers, max(1, min(WORKERS_MAX, machine.cores // at.ranks // 2))),
        schedule=schedule,
        optim=optim,
        seed=SEED if request.seed is None else request.seed,
        packing=request.packing or "bestfit",
        max_epochs=MAX_EPOCHS if request.max_epochs is None else request.max_epochs,
        eval_every=said_or(request.eval_every, eval_every(horizon.steps)),
        val_tokens=min(wanted_val, data.val_tokens) if data else wanted_val,
        save_every=save,
        keep=keep,
        stop_after=request.stop_after,
        memory=memory_of(config, rows, place),
        disk=disk_of(config, machine.device, horizon.tokens, epochs, present, max(1, int(saves)), keep),
        estimate=estimate,
        machine=machine.name,
        warnings=(),
        problems=(),
        notes=(),
        origins=origins,
        request=request.to_json(),
    )


def run_name(request: TrainRequest, data: DataFacts | None) -> str:
    """`train-` and six hex digits: the same request on the same shards is the same run (decision 17)."""
    identity = {"request": request.identity(), "shards": data.fingerprint if data else ""}
    return "train-" + hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:6]


def origins_of(request: TrainRequest, vocab: Origin, choice: Choice | None, horizon: Horizon) -> dict[str, Origin]:
    """The source of every knob's value, and of tokens_per_step."""
    origins = {
        name: request.origin(name) if name in request.said() else Origin("rule", knob.rule)
        for name, knob in BY_NAME.items()
    }
    origins["vocab_size"] = vocab
    if choice:
        origins["depth"] = Origin("rule", f"even depth with ratio nearest {laws.RATIO_TARGET:g}")
    given = next((name for name in ("total_batch_size", "grad_accum") if name in request.said()), None)
    origins["tokens_per_step"] = (
        origins[given] if given else Origin("rule", horizon.batch.source.removeprefix("rule: "))
    )
    return origins
