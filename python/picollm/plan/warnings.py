"""What looks wrong in a plan. Codes: 1 data and tokenizer, 2 shape, 3 device, 4 effort, 5 while running."""

import math
from collections.abc import Iterator
from dataclasses import replace

from picollm.model.config import ModelConfig, shape
from picollm.model.counts import count
from picollm.plan import eightbit, laws
from picollm.plan.facts import Warning
from picollm.plan.trainplan import TrainPlan
from picollm.runtime.machine import Machine
from picollm.runtime.pace import MOST_WAITING

EMBEDDING_SHARE = 0.5
HEAD_DIM_MIN = 32
ASPECT = (32.0, 128.0)
EPOCHS, EPOCHS_STRONG = 1.5, 4.0
WARMUP = (0.002, 0.10)
RATIO = (5.0, 100.0)
SAVE_SECONDS = 30 * 60
ETA_DAYS = 7
BYTES_PER_TOKEN_MIN = 100  # of training text for each token of the vocabulary; judgement
BF16_SINCE = (8, 0)  # compute capability with bf16 units: Ampere
DAY = 86_400


def million(value: float) -> str:
    return f"{value / 1e6:,.0f} M" if value >= 10e6 else f"{value / 1e6:.2f} M"


def find(plan: TrainPlan, machine: Machine) -> tuple[Warning, ...]:
    """Every warning for this plan on this machine, by code."""
    found = [*data_warnings(plan), *shape_warnings(plan.model), *device_warnings(plan, machine), *effort_warnings(plan)]
    return tuple(sorted(found, key=lambda warning: warning.code))


def data_warnings(plan: TrainPlan) -> Iterator[Warning]:
    data, vocab = plan.data, plan.model.vocab_size
    if data and 0 < data.train_bytes < BYTES_PER_TOKEN_MIN * vocab:
        text = (
            f"{vocab:,} tokens for {data.train_bytes / 1e6:,.1f} MB of text: rare ones are met too seldom to be learned"
        )
        yield Warning("W105", text, "a tokenizer with a smaller --vocab-size, or more text")


def shape_warnings(config: ModelConfig) -> Iterator[Warning]:
    counts = count(config)
    if counts.embedding_share > EMBEDDING_SHARE:
        smaller = max(512, 2 ** math.ceil(math.log2(config.vocab_size) - 1))
        saved = counts.total - count(with_vocab(config, smaller)).total
        text = f"{100 * counts.embedding_share:.0f} % of {million(counts.total)} parameters are embeddings"
        yield Warning("W201", text, f"--vocab-size {smaller} saves {million(saved)}" if saved > 0 else "")
    if config.head_dim < HEAD_DIM_MIN:
        wide = next((d for d in (64, 32) if config.width % d == 0), 0)
        remedy = f"{config.width // wide} heads x {wide} is the same width" if wide else ""
        yield Warning("W202", f"head dim {config.head_dim}: kernels and capacity suffer", remedy)
    aspect = config.width / config.depth
    if not ASPECT[0] <= aspect <= ASPECT[1]:
        yield Warning(
            "W203", f"{'under' if aspect > ASPECT[1] else 'over'}-deep: aspect {aspect:.0f}", balanced(config)
        )
    if config.vocab_size % 64:
        yield Warning("W204", f"vocabulary {config.vocab_size:,} is padded to {config.padded_vocab:,} rows")


def with_vocab(config: ModelConfig, vocab: int) -> ModelConfig:
    return replace(config, vocab_size=vocab, padded_vocab=-(-vocab // 64) * 64)


def balanced(config: ModelConfig) -> str:
    """The even depth and whole-headed width of about equal matrices whose aspect ratio is ordinary."""
    mine = count(config).matrices
    head = 128 if config.width >= 256 else 64

    def matrices(depth: int, width: int) -> int:
        return count(shape(depth, config.vocab_size, config.seq_len, "L", width=width, head_dim=head)).matrices

    options = [
        (depth, width) for depth in range(2, 65, 2) for width in range(head, 8192, head) if 48 <= width / depth <= 96
    ]
    depth, width = min(options, key=lambda option: abs(math.log(matrices(*option) / mine)))
    return f"about equal: {depth} x {width} ({million(matrices(depth, width))} against {million(mine)} in matrices)"


def device_warnings(plan: TrainPlan, machine: Machine) -> Iterator[Warning]:
    short = [window for window in plan.model.windows if window is not None and window < plan.seq_len - 1]
    old = machine.device == "cuda" and machine.capability is not None and machine.capability < (8, 0)
    if short and (old or machine.device == "mps"):
        text = f"{plan.model.window_pattern} runs as masked full attention here, slower than L; the plan stays"
        yield Warning("W301", text)
    if plan.measured and plan.measured.waiting > MOST_WAITING:
        text, _, remedy = starving(plan, plan.measured.waiting).partition(": ")
        yield Warning("W501", text, remedy)
    if plan.dtype == "bf16" and machine.capability is not None and machine.capability < BF16_SINCE:
        major, minor = machine.capability
        yield Warning("W302", f"bf16 is emulated on SM {major}{minor}", "--dtype fp32")
    if plan.fp8 and plan.model.depth < eightbit.PAYS_FROM:
        yield Warning("W303", f"depth {plan.model.depth} is usually slower with fp8", "--fp8=auto")
    if machine.device == "cuda" and machine.count > plan.ranks:
        text = f"{machine.count} GPUs seen, {plan.ranks} used"
        yield Warning("W305", text, f"--nproc-per-node {machine.count}")


def effort_warnings(plan: TrainPlan) -> Iterator[Warning]:
    if plan.epochs > EPOCHS:
        grade = "the model will learn its text by heart" if plan.epochs > EPOCHS_STRONG else "expect overfitting"
        yield Warning("W401", f"{plan.epochs:.1f} epochs: {grade}")
    share = plan.schedule.warmup / plan.steps
    if plan.origins["warmup_steps"].source != "rule" and not WARMUP[0] <= share <= WARMUP[1]:
        text = f"warm-up is {100 * share:.2g} % of the run"
        yield Warning("W402", text, f"--warmup-steps {laws.warmup_steps(plan.steps)} is the rule")
    if not RATIO[0] <= plan.ratio <= RATIO[1]:
        text = f"{plan.ratio:.3g} tokens per scaling parameter; measured optimum 8-12, Chinchilla 20"
        yield Warning("W404", text)
    wanted = laws.batch_for_tokens(plan.tokens)
    if plan.origins["tokens_per_step"].source != "rule" and not wanted / 2 <= plan.tokens_per_step <= wanted * 2:
        text = f"{plan.tokens_per_step:,} tokens/step; the law wants about {wanted:,} for {plan.tokens:,} tokens"
        yield Warning("W405", text, "rates are scaled to the batch you gave")
    step_seconds = plan.estimate.seconds / plan.steps
    gap = plan.save_every.value * (step_seconds if plan.save_every.unit == "steps" else 1.0)
    if gap > SAVE_SECONDS:
        yield Warning("W406", f"{gap / 60:.0f} minutes between checkpoints", "--save-every 15min")
    if plan.estimate.seconds > ETA_DAYS * DAY:
        yield Warning(
            "W407", f"about {plan.estimate.seconds / DAY:,.0f} days on this machine", "a smaller budget, or GPUs"
        )


def starving(plan: TrainPlan, share: float) -> str:
    """W501: what to do when rows come too slowly."""
    return f"{100 * share:.0f} % of a step waits for data: --workers {2 * plan.workers} (now {plan.workers})"


def disk_warnings(plan: TrainPlan, free: int) -> Iterator[Warning]:
    """What `free` bytes under the runs say about the checkpoints to be kept, and the one being written beside them."""
    needed = (plan.disk.kept + 1) * plan.disk.checkpoint
    if needed > free:
        text = f"{needed / 1e9:,.1f} GB needed for checkpoints, {free / 1e9:,.1f} GB free"
        yield Warning("W406", text, "--keep 1, or --runs-dir on a larger disk")
