"""From a finished base run to the plan of its fine-tuning. Pure: shape, batch and rates are inherited, then scaled.

Specification 10.1: rates x 0.8, no warm-up, down over the second half to 0, no decay on the matrices, one pass.
Two things differ, both measured on the quickstart's model (depth 4, width 128, 110,000 tokens of chats): a pass in 27
steps of the inherited 4,096 tokens learned nothing (who-are-you wrong), 216 steps of 512 tokens did; and with the
batch made smaller, rates scaled down by its square root were worse than rates left as they are.
"""

from dataclasses import asdict, dataclass, replace

from picollm.errors import UsageError
from picollm.plan import laws
from picollm.plan.facts import DataFacts
from picollm.plan.horizon import device_batch, micro_steps
from picollm.plan.rates import OptimPlan
from picollm.plan.request import Interval, Origin
from picollm.plan.resolve import eval_every
from picollm.plan.schedule import MOMENTUM_PEAK, Schedule
from picollm.plan.trainplan import TrainPlan

RATE_SCALE = 0.8
WARMDOWN_SHARE = 0.5
NUM_EPOCHS = 1
FLOOR_TOKENS = 512  # of a step: halving an inherited batch stops here


@dataclass(frozen=True)
class SftRequest:
    """A fine-tuning command, read. `None` means that nothing was said.

    total_batch_size: tokens per step; num_epochs and num_iterations exclude each other.
    """

    name: str | None = None
    num_epochs: int | None = None
    num_iterations: int | None = None
    total_batch_size: int | None = None
    device_batch_size: int | None = None
    rate_scale: float | None = None
    seed: int | None = None
    eval_every: int | None = None
    save_every: Interval | None = None
    keep: int | None = None

    def __post_init__(self) -> None:
        if self.num_epochs is not None and self.num_iterations is not None:
            raise UsageError("two horizons: --num-epochs and --num-iterations", hint="keep one")
        names = ("num_epochs", "num_iterations", "total_batch_size", "device_batch_size", "rate_scale", "eval_every")
        for name in (*names, "keep"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(f"--{name.replace('_', '-')} must be positive, not {value}")


def rows_per_step(request: SftRequest, base: TrainPlan, rows_per_pass: int) -> int:
    """G: what --total-batch-size asks for in whole rows; else the base run's, halved while a run has too few steps."""
    if request.total_batch_size is not None:
        if request.total_batch_size % base.seq_len:
            rows = max(1, round(request.total_batch_size / base.seq_len))
            raise UsageError(
                f"--total-batch-size {request.total_batch_size:,} is not whole rows of {base.seq_len:,} tokens",
                hint=f"--total-batch-size {rows * base.seq_len}",
            )
        return request.total_batch_size // base.seq_len
    rows = base.rows_per_step
    if request.num_iterations is not None:
        return rows
    total = rows_per_pass * (request.num_epochs or NUM_EPOCHS)
    while total / rows < laws.MIN_STEPS and rows > 1 and rows * base.seq_len > FLOOR_TOKENS:
        rows //= 2
    return rows


def scaled(optim: OptimPlan, factor: float) -> OptimPlan:
    """Every peak rate times `factor`. No group is held at the first step: the matrices are not zero any more."""
    adamw = {role: replace(group, lr=group.lr * factor) for role, group in optim.adamw.items()}
    return OptimPlan(replace(optim.muon, lr=optim.muon.lr * factor), adamw, hold_first=())


def finetune(base: TrainPlan, request: SftRequest, data: DataFacts, rows_per_pass: int) -> TrainPlan:
    """The plan of fine-tuning the model of `base` on `data`, conversations that fill `rows_per_pass` rows."""
    rows = rows_per_step(request, base, rows_per_pass)
    steps = request.num_iterations or -(-rows_per_pass * (request.num_epochs or NUM_EPOCHS) // rows)
    factor = RATE_SCALE if request.rate_scale is None else request.rate_scale
    down = laws.warmdown_steps(steps, WARMDOWN_SHARE)
    rows_each = request.device_batch_size or device_batch(rows, 1, base.device_batch)
    origins = {name: Origin("rule", f"inherited from {base.name}") for name in base.origins}
    return replace(
        base,
        fp8=False,
        name=request.name or f"{base.name}-sft",
        data=data,
        horizon="num_iterations" if request.num_iterations else "num_epochs",
        steps=steps,
        rows_per_step=rows,
        tokens_per_step=rows * base.seq_len,
        ranks=1,
        device_batch=rows_each,
        micro_steps=micro_steps(rows, 1, rows_each),
        schedule=Schedule(steps, 0, 1, down, 0.0, 0.0, momentum_start=MOMENTUM_PEAK),
        optim=scaled(base.optim, factor),
        seed=base.seed if request.seed is None else request.seed,
        packing="bestfit",
        max_epochs=float(-(-steps * rows // rows_per_pass)),
        eval_every=request.eval_every or eval_every(steps),
        val_tokens=data.val_tokens,
        save_every=request.save_every or base.save_every,
        keep=request.keep or base.keep,
        stop_after=None,
        warnings=(),
        problems=(),
        notes=(),
        origins=origins,
        request={"stage": "sft", "base": base.name} | {k: v for k, v in said(request).items() if v is not None},
    )


def said(request: SftRequest) -> dict[str, object]:
    values = asdict(request)
    values["save_every"] = str(request.save_every) if request.save_every else None
    return values
