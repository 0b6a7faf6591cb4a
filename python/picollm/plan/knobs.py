"""The one registry of knobs: names, layers, rules and reasons. Options, help, plan and docs all read it.

A knob's field of `TrainRequest` carries its name. `why`, `too_low` and `too_high` are written for people: they
answer `picollm explain`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum


class Layer(StrEnum):
    """The four layers of a training command, and what steers the process around it."""

    DATA = "what the model sees"
    TOKENS = "how text becomes tokens"
    MODEL = "how large the model is"
    EFFORT = "how hard and how long"
    RUN = "run control"


class Kind(Enum):
    """How a value is written."""

    INT = "int"  # 12
    COUNT = "count"  # 4096, 10B, 1e9
    NUMBER = "number"  # 0.02, 1e19
    TEXT = "text"
    PATH = "path"
    FLAG = "flag"  # --x / --no-x
    CHOICE = "choice"
    INTERVAL = "interval"  # 100, 100steps, 15min, 20usd
    DOLLARS = "dollars"  # 20, 20usd


class Question(StrEnum):
    """What a change may change, in the order in which `diff` answers."""

    DISTRIBUTION = "data distribution"
    GRANULARITY = "tokenizer granularity"
    CAPACITY = "model capacity"
    MEMORY = "memory use"
    STABILITY = "optimisation stability"
    BUDGET = "training budget"


@dataclass(frozen=True)
class Knob:
    """One decision. `rule` says what is used when nothing is said; `switches` are options that set one value.

    `example`: options to put behind `--preset tiny` in order to see its effect. `may_change`: another value may
    continue a started run (decision 18). `plan_only`: `train` ignores it. `bare`: what the option means without value.
    `auto`: a flag knob that the word `auto` sets, in place of a value.
    """

    name: str
    layer: Layer
    kind: Kind
    rule: str
    why: str
    too_low: str = ""
    too_high: str = ""
    aliases: tuple[str, ...] = ()
    unit: str = ""
    bare: str = ""
    auto: str = ""
    choices: tuple[str, ...] = ()
    switches: Mapping[str, str] = field(default_factory=dict)
    changes: Mapping[Question, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    example: str = ""
    may_change: bool = False
    plan_only: bool = False

    @property
    def flag(self) -> str:
        return option(self.name)

    @property
    def flags(self) -> tuple[str, ...]:
        """Every spelling, the canonical one first."""
        return tuple(option(name) for name in (self.name, *self.aliases))

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return "PICOLLM_" + self.name.upper()


def option(name: str) -> str:
    return "--" + name.replace("_", "-")


Q, D, T, M, E, R = Question, Layer.DATA, Layer.TOKENS, Layer.MODEL, Layer.EFFORT, Layer.RUN

DATA_KNOBS = (
    Knob(
        "dataset_name", D, Kind.TEXT, "not used: --shards decides",
        example="--dataset-name stdlib",
        why="Names the shards by their corpus. Training never starts hours of hidden sharding: shards that do not"
        " exist are answered with the command that makes them.",
        aliases=("dataset",), unit="alias, path or owner/name",
        changes={Q.DISTRIBUTION: "other documents: what the model can know and how it sounds"},
    ),
    Knob(
        "dataset_config", D, Kind.TEXT, "the shards'",
        example="--dataset-config sample-10BT",
        why="Which configuration of a data set the shards were made from. `train` reads shards and only hands this on"
        " to the command that makes them, when they are missing.", may_change=True,
    ),
    Knob(
        "dataset_split", D, Kind.TEXT, "the shards'",
        example="--dataset-split train",
        why="Which split the shards were made from; handed on like --dataset-config. Validation is chosen by document"
        " hash, whatever the split is called.", may_change=True,
    ),
    Knob(
        "text_column", D, Kind.TEXT, "the shards'",
        example="--text-column text",
        why="Which column held the text; handed on like --dataset-config.", may_change=True,
    ),
    Knob(
        "shards", D, Kind.PATH, "the only shard set there is, else the most recently finished",
        example="--shards shards/stdlib",
        why="What the model reads decides what it can become; the shard set fixes documents, tokenizer and"
        " validation at once, and its fingerprint goes into the run.",
        unit="directory",
        changes={Q.DISTRIBUTION: "other documents", Q.GRANULARITY: "the shards bring their tokenizer"},
    ),
    Knob(
        "val_shards", D, Kind.PATH, "the validation documents of --shards",
        example="--val-shards shards/tinystories-validation",
        why="Where validation rows come from, if not from the set itself: a set made from a data set's own validation"
        " split, so that runs on other data compare. Never a file that is trained on, nor a test split, which"
        " `picollm eval --final` alone reads.",
        unit="directory",
        changes={},
    ),
    Knob(
        "seed", D, Kind.INT, "1337",
        example="--seed 1338",
        why="One seed for initial values and row order: the same command gives the same run. Two seeds show how much"
        " of a difference is chance.",
        changes={},
    ),
    Knob(
        "max_epochs", D, Kind.NUMBER, "4",
        example="--max-epochs 8 --max-steps 400",
        why="Repeated text helps less each time; up to about four passes it is nearly as good as new text, after"
        " that the model learns it by heart (Muennighoff et al., arXiv 2305.16264).",
        too_low="the run is refused although some repetition is harmless",
        too_high="training loss falls while validation rises",
        unit="passes over the training tokens", warnings=("W401",),
        changes={Q.DISTRIBUTION: "how often the same text is seen"},
    ),
)  # fmt: skip

TOKEN_KNOBS = (
    Knob(
        "tokenizer", T, Kind.PATH, "the one the shards were made with",
        example="--tokenizer tokenizers/stdlib-4096",
        why="Ids mean nothing without their tokenizer. It must be the shards' own, by hash; another one is refused.",
        unit="directory",
        changes={Q.GRANULARITY: "how much text one token holds"},
    ),
    Knob(
        "vocab_size", T, Kind.COUNT, "the shards', else the tokenizer's, else 32,768",
        example="--vocab-size 4096",
        why="More tokens mean fewer steps for the same text, and larger tables: in small models the tables soon hold"
        " most parameters. 65,536 is the most that 16-bit ids can say.",
        too_low="text becomes long: more compute and less context for the same words",
        too_high="most parameters sit in rarely used rows of the embeddings; logits grow",
        unit="tokens", warnings=("W105", "W201", "W204"),
        changes={
            Q.GRANULARITY: "bytes per token",
            Q.CAPACITY: "size of the embeddings and the head",
            Q.MEMORY: "tables, their optimizer state, logits",
            Q.BUDGET: "the head counts as scaling parameters: the ratio asks for other tokens",
        },
    ),
    Knob(
        "max_seq_len", T, Kind.COUNT, "2048",
        example="--max-seq-len 64",
        why="How far back the model can look in training. Documents stay whole in the shards, so changing it needs"
        " no new shards.",
        too_low="long-range structure is never seen; documents are cut",
        too_high="attention and activations grow, and most documents are shorter anyway",
        aliases=("block_size",), unit="tokens",
        changes={
            Q.MEMORY: "activations grow with it, attention with it times the window",
            Q.BUDGET: "FLOPs per token grow with the windows",
        },
    ),
    Knob(
        "packing", T, Kind.CHOICE, "bestfit",
        example="--packing concat",
        why="How documents fill rows. bestfit starts rows at a document's beginning and splits few documents; concat"
        " lays documents end to end and wastes nothing.",
        choices=("bestfit", "concat"),
        changes={Q.DISTRIBUTION: "where documents are cut, how much padding is read"},
    ),
)  # fmt: skip

MODEL_KNOBS = (
    Knob(
        "depth", M, Kind.INT, "with only FLOPs, steps or time: the even depth with a ratio nearest 12",
        example="--depth 4",
        why="The one dial of size: width and heads follow from it, rates, batch and horizon from the size. Rates were"
        " searched along this family of shapes.",
        too_low="the model saturates: more tokens stop helping",
        too_high="too few tokens per parameter for the budget, and more memory",
        aliases=("layers",), unit="layers", warnings=("W203", "W404"),
        changes={
            Q.CAPACITY: "parameters grow as about its cube",
            Q.MEMORY: "weights, optimizer, activations",
            Q.STABILITY: "width scales the table rates",
            Q.BUDGET: "FLOPs per token; with a ratio, tokens too",
        },
    ),
    Knob(
        "aspect_ratio", M, Kind.NUMBER, "64 channels per layer",
        example="--aspect-ratio 64",
        why="Width over depth. 64 is the line of shapes on which the rates were tuned; between 32 and 128 the loss"
        " is flat at equal size.",
        too_low="narrow and deep: slow, little parallel work", too_high="wide and shallow: few steps of thought",
        unit="channels per layer", warnings=("W203",),
        changes={Q.CAPACITY: "width", Q.MEMORY: "all that has a width", Q.STABILITY: "table rates scale with it"},
    ),
    Knob(
        "hidden_size", M, Kind.INT, "aspect ratio x depth, rounded up to whole heads",
        example="--hidden-size 128",
        why="The width said directly, for those who copy a shape.",
        too_low="little room per token", too_high="under-deep at equal parameters",
        unit="channels", warnings=("W203",),
        changes={Q.CAPACITY: "parameters grow as its square", Q.MEMORY: "everything that has a width"},
    ),
    Knob(
        "heads", M, Kind.INT, "width / head dim",
        example="--heads 1",
        why="How many places a layer can look at together. Follows from the width and the head width.",
        too_low="few patterns per layer", too_high="narrow heads: kernels are slow and each head says little",
        warnings=("W202",),
        changes={Q.CAPACITY: "how attention is divided; parameters stay"},
    ),
    Knob(
        "head_dim", M, Kind.INT, "128 from a width of 256 on, else 64",
        example="--head-dim 64",
        why="Kernels are fastest at 64 and 128; recipes of this family use 128.",
        too_low="kernels run below their speed, a head has little to compare with", too_high="fewer heads",
        unit="channels", warnings=("W202",),
        changes={Q.CAPACITY: "number of heads; the width rounds up to a whole number of them"},
    ),
    Knob(
        "kv_heads", M, Kind.INT, "as many as heads",
        example="--kv-heads 1",
        why="Fewer key heads shrink the cache when the model talks. Training gains nothing.",
        too_low="attention loses detail", too_high="must divide the heads",
        changes={Q.CAPACITY: "keys, values and value tables shrink", Q.MEMORY: "cache and value tables"},
    ),
    Knob(
        "window_pattern", M, Kind.TEXT, "SSSL on every machine",
        example="--window-pattern SL --max-seq-len 1024",
        why="S layers see a quarter of the row, L layers all of it, the last layer is always L. It changes the model,"
        " so it never follows the machine's kernels.",
        unit="letters S and L, tiled over the layers", warnings=("W301",),
        changes={Q.CAPACITY: "how far each layer sees", Q.BUDGET: "S costs fewer FLOPs per token"},
    ),
    Knob(
        "arch", M, Kind.CHOICE, "fast",
        example="--arch fast",
        why="fast has every trick that paid at several depths. It is the only one until exporters come.",
        choices=("fast",),
    ),
    Knob(
        "value_embeds", M, Kind.FLAG, "on",
        example="--no-value-embeds",
        why="Tables that add to the values of every other layer: the largest single gain of this architecture, and"
        " about half of all parameters (nanochat LOG 2026-01-17).",
        warnings=("W201",),
        changes={Q.CAPACITY: "half of the parameters, none of the FLOPs", Q.MEMORY: "tables and their moments"},
    ),
    Knob(
        "backout", M, Kind.FLAG, "on",
        example="--no-backout",
        why="Takes half-depth features back out before the head; tuned at half depth in March 2026 (nanochat).",
        changes={Q.CAPACITY: "one scalar"},
    ),
    Knob(
        "smear", M, Kind.FLAG, "off",
        example="--smear",
        why="Mixes in the previous token's embedding. A small gain once, doubted by its maintainer (nanochat #747).",
        changes={Q.CAPACITY: "25 parameters"},
    ),
)  # fmt: skip

HORIZON_KNOBS = (
    Knob(
        "num_iterations", E, Kind.COUNT, "from the other horizons",
        example="--num-iterations 100",
        why="The number of updates, said directly. The batch then follows from the steps.",
        too_low="the schedule has no time to work", too_high="repeated text, or money",
        aliases=("max_steps",), unit="steps", warnings=("W401", "W404"),
        changes={Q.BUDGET: "tokens = steps x tokens per step", Q.STABILITY: "decay shrinks with the tokens"},
    ),
    Knob(
        "target_flops", E, Kind.NUMBER, "from the other horizons",
        example="--target-flops 1e12",
        why="A budget of compute. Without a depth it also chooses the size: the even depth whose tokens per"
        " parameter come nearest 12.",
        unit="FLOPs", warnings=("W401", "W404"),
        changes={Q.BUDGET: "it is the budget", Q.CAPACITY: "without --depth: the depth"},
    ),
    Knob(
        "target_param_data_ratio", E, Kind.NUMBER, "12, when a depth is the only thing known",
        example="--target-param-data-ratio 12",
        why="Tokens per scaling parameter (matrices and head). Chinchilla found 20 for plain AdamW, this recipe's"
        " optimum was measured at 8 to 12.",
        too_low="a large model, half trained", too_high="a small model, over-trained: cheap to run, dear to make",
        unit="tokens per parameter", warnings=("W404",),
        changes={Q.BUDGET: "tokens = ratio x parameters"},
    ),
    Knob(
        "max_minutes", E, Kind.NUMBER, "from the other horizons",
        example="--max-minutes 1",
        why="A budget of time. The rate is measured before the first step, the number of steps is then fixed: the"
        " schedule reaches its end.",
        unit="minutes",
        changes={Q.BUDGET: "it is the budget"},
    ),
    Knob(
        "budget", E, Kind.DOLLARS, "from the other horizons",
        example="--budget 1usd --price-per-gpu-hour 3",
        why="A budget of money: minutes at --price-per-gpu-hour.",
        unit="dollars", changes={Q.BUDGET: "it is the budget"},
    ),
)  # fmt: skip

BATCH_KNOBS = (
    Knob(
        "total_batch_size", E, Kind.COUNT, "524,288 x (tokens / 1.32 B)^0.383 at the nearest power of two",
        example="--total-batch-size 4096",
        why="Tokens per update. Longer runs stand larger batches (Power Lines, arXiv 2505.13738); rates and decay"
        " follow it.",
        too_low="noisy updates, small rates, idle GPUs", too_high="too few updates for the same tokens",
        unit="tokens per step", warnings=("W405",),
        changes={Q.STABILITY: "rates scale with its square root, decay with it", Q.BUDGET: "steps = tokens / it"},
    ),
    Knob(
        "device_batch_size", E, Kind.INT, "the largest that the memory model allows",
        example="--device-batch-size 2",
        why="Rows per device and micro-step. Accumulation fills up to the same total: memory and speed change, the"
        " result does not. `auto`: what the ledger allows, and fewer if a step does not fit (--auto-batch).",
        too_low="the device idles between small kernels", too_high="out of memory",
        aliases=("batch_size",), unit="rows, or auto", auto="auto_batch", warnings=("E503",), may_change=True,
        changes={Q.MEMORY: "activations"},
    ),
    Knob(
        "auto_batch", E, Kind.FLAG, "off: out of memory ends the run (exit 5)",
        example="--auto-batch",
        why="Where the ledger was wrong: a step that does not fit halves the rows, doubles the micro-steps and goes on"
        " from the last checkpoint. The result is the same; on several processes the batch is yours to choose.",
        warnings=("E503",), may_change=True,
        changes={Q.MEMORY: "activations, when they do not fit"},
    ),
    Knob(
        "grad_accum", E, Kind.INT, "total batch / (devices x rows x length), rounded up",
        example="--device-batch-size 2 --grad-accum 16",
        why="Micro-steps per update: more of them let a small device take a large batch.",
        unit="micro-steps",
        changes={Q.STABILITY: "only if it changes the total batch"},
    ),
)  # fmt: skip

RATE_KNOBS = (
    Knob(
        "learning_rate", E, Kind.NUMBER, "0.02 for matrices, before batch scaling",
        example="--learning-rate 0.1",
        why="Peak of the Muon group at the reference batch; the other groups keep their ratio to it. Found by search"
        " at depth 12 and carried by the scaling rules.",
        too_low="slow: the budget ends before the loss does", too_high="loss jumps or stops being a number",
        warnings=("E501",),
        changes={Q.STABILITY: "all peaks move by one factor"},
    ),
    Knob(
        "embedding_lr", E, Kind.NUMBER, "0.3 (value tables: half), before batch and width scaling",
        example="--embedding-lr 1",
        why="Rows are touched rarely, so their rate is high.",
        too_low="rare tokens stay where they began", too_high="frequent tokens jump",
        changes={Q.STABILITY: "token and value tables"},
    ),
    Knob(
        "unembedding_lr", E, Kind.NUMBER, "0.008, before batch and width scaling",
        example="--unembedding-lr 0.05",
        why="The head meets every token at each step and wants a small rate.",
        too_low="logits stay flat", too_high="logits saturate the soft cap",
        changes={Q.STABILITY: "the head"},
    ),
    Knob(
        "scalar_lr", E, Kind.NUMBER, "0.5 (residual scales: 1 % of it), before batch scaling",
        example="--scalar-lr 0.05",
        why="One number per layer mixes in the first embedding; it needs room to move.",
        too_low="the scales stay at their initial values", too_high="layers switch on and off",
        changes={Q.STABILITY: "residual and x0 scales"},
    ),
    Knob(
        "weight_decay", E, Kind.NUMBER, "0.28 x sqrt(batch / 524,288) x 1.32 B / tokens, rate x decay at most 0.01",
        example="--weight-decay 0",
        why="Peak decay of the matrices. The rule keeps the memory of the weights the same share of the run"
        " (arXiv 2405.13698).",
        too_low="weights grow, late learning slows", too_high="weights forget faster than momentum remembers",
        changes={Q.STABILITY: "how long a weight remembers"},
    ),
    Knob(
        "warmup_steps", E, Kind.INT, "2 % of the steps, 1 to 40",
        example="--warmup-steps 0",
        why="The first updates see a model that knows nothing; small ones avoid a wrong turn.",
        too_low="a jump at the start", too_high="the best part of the run is spent walking",
        unit="steps", warnings=("W402",),
        changes={Q.STABILITY: "the start"},
    ),
    Knob(
        "warmdown_ratio", E, Kind.NUMBER, "0.65 of the run, down to 5 % of the peak",
        example="--warmdown-ratio 0",
        why="Most of the loss comes off while the rate falls.",
        too_low="the run ends hot", too_high="little time at full rate",
        unit="share of the run",
        changes={Q.STABILITY: "the end"},
    ),
)  # fmt: skip

RUNTIME_KNOBS = (
    Knob(
        "device", E, Kind.CHOICE, "cuda if there is one, else mps, else cpu",
        example="--device cpu",
        why="Where the arithmetic runs. The plan's sizes do not follow it.",
        choices=("auto", "cuda", "mps", "cpu"), may_change=True,
        changes={Q.BUDGET: "time, not tokens"},
    ),
    Knob(
        "dtype", E, Kind.CHOICE, "bf16 on CUDA from SM 80 on, else fp32",
        example="--dtype bf16",
        why="Compute type. bf16 has the range of fp32 in half the bytes and needs no scaler.",
        choices=("auto", "fp32", "bf16"), switches={"bf16": "bf16"}, warnings=("W302",),
        changes={Q.MEMORY: "activations halve in bf16", Q.STABILITY: "rounding"},
    ),
    Knob(
        "fp8", E, Kind.CHOICE, "off",
        example="--fp8=auto",
        why="The matmuls of training in eight bits, a scale per tensor; weights and evaluation stay. Faster on large"
        " models, a little worse per step: what counts is the time to equal bits per byte.",
        too_high="small models: the scaling costs more than the matmuls save (W303)",
        choices=("off", "on", "auto"), bare="on", warnings=("E302", "W303"),
        changes={Q.MEMORY: "some activations in one byte", Q.STABILITY: "3 or 2 bits of mantissa in the matmuls"},
    ),
    Knob(
        "recompute", E, Kind.FLAG, "off",
        example="--recompute",
        why="Forget what the layers computed and compute it again in backward: a third more time for a fraction of the"
        " activations. The result is the same. For models of which one row does not fit.",
        may_change=True,
        changes={Q.MEMORY: "about a seventh of the activations", Q.BUDGET: "time, not tokens"},
    ),
    Knob(
        "compile", E, Kind.CHOICE, "on for cuda, off for cpu and mps",
        example="--compile on",
        why="Fused kernels for a wait at the start: minutes that only a GPU run earns back.",
        choices=("auto", "on", "off"), may_change=True, warnings=("W304",),
    ),
    Knob(
        "nproc", E, Kind.INT, "1, or the world that torchrun opened",
        example="--nproc 2",
        why="Processes, one per device. The total batch stays, so do the results; memory for the optimizer is shared.",
        aliases=("nproc_per_node",), unit="processes", warnings=("W305",), may_change=True,
        changes={Q.MEMORY: "optimizer state is divided", Q.BUDGET: "time, not tokens"},
    ),
    Knob(
        "workers", E, Kind.INT, "half of this process's cores, 1 to 8",
        example="--workers 1",
        why="Loader threads. The order of rows does not depend on them.",
        unit="threads", may_change=True,
    ),
    Knob(
        "gpu", E, Kind.TEXT, "the GPUs of this machine, if any",
        example="--gpu h100:8",
        why="Plan for another machine: h100, a100, 4090 …; h100:8 also says --nproc 8.",
        may_change=True, plan_only=True,
    ),
    Knob(
        "peak_flops", E, Kind.NUMBER, "the vendor's dense bf16 figure, else a measured matmul",
        example="--peak-flops 1e12",
        why="What 100 % means in MFU, and what a time estimate divides by.",
        unit="FLOP/s per device", may_change=True,
    ),
    Knob(
        "step_time", E, Kind.NUMBER, "FLOPs / (devices x peak x assumed MFU)",
        example="--step-time 2.84",
        why="Seconds per step read off a live log turn the plan's guess into arithmetic.",
        unit="seconds", may_change=True, plan_only=True,
    ),
    Knob(
        "price_per_gpu_hour", E, Kind.NUMBER, "unknown: no price is invented",
        example="--price-per-gpu-hour 3",
        why="Your price makes hours into money.",
        unit="dollars", may_change=True,
    ),
)  # fmt: skip

RUN_KNOBS = (
    Knob("name", R, Kind.TEXT, "train- and six hex digits of the request",
         example="--name mine",
         why="The same command is the same run, on every rank and after every restart.", may_change=True),
    Knob("runs_dir", R, Kind.PATH, "runs", why="Where runs lie: visible, yours to delete.",
         example="--runs-dir trials",
         unit="directory", may_change=True),
    Knob("resume", R, Kind.TEXT, "auto",
         example="--resume never",
         why="auto starts, goes on or says that the run is finished; never refuses a run that exists; a run's name"
         " goes on with that run.", unit="auto, never or RUN", may_change=True),
    Knob("stop_after", R, Kind.INTERVAL, "never",
         example="--stop-after 10steps",
         why="A cap, not a horizon: it saves and leaves, the schedule stays.", unit="500steps, 30min or 20usd",
         may_change=True, changes={Q.BUDGET: "this session only"}),
    Knob("save_every", R, Kind.INTERVAL, "15min",
         example="--save-every 10steps",
         why="What a crash can cost, in time.", too_low="time and disk go into files",
         too_high="a crash costs that much work", aliases=("save_steps",), unit="100 (steps) or 15min",
         warnings=("W406",), may_change=True),
    Knob("keep", R, Kind.INT, "3, plus the best",
         example="--keep 1",
         why="Disk: a checkpoint holds weights and optimizer.", unit="checkpoints", may_change=True),
    Knob("eval_every", R, Kind.INT, "a tenth of the run, 1 to 250 steps; also at step 0 and the end",
         example="--eval-every 1",
         why="Validation shows what training loss hides.", too_low="time goes into looking", too_high="late news",
         unit="steps", may_change=True),
    Knob("val_tokens", R, Kind.COUNT, "a 64th of the training tokens as a power of two, 16 Ki to 10 M",
         example="--val-tokens 32768",
         why="One fixed set for the whole run: enough for a steady figure, little enough to be cheap.",
         too_low="bits per byte is noisy", too_high="evaluation takes the time of training", unit="tokens"),
    Knob("log", R, Kind.TEXT, "metrics.jsonl alone, which is always written",
         example="--log tensorboard",
         why="Other dashboards beside it; each is an extra of the package and is imported only when named.",
         unit="tensorboard, wandb, trackio; several with commas", may_change=True),
)  # fmt: skip

KNOBS = (
    *DATA_KNOBS, *TOKEN_KNOBS, *MODEL_KNOBS, *HORIZON_KNOBS, *BATCH_KNOBS, *RATE_KNOBS, *RUNTIME_KNOBS, *RUN_KNOBS,
)  # fmt: skip
BY_NAME = {knob.name: knob for knob in KNOBS}
HORIZONS = tuple(knob.name for knob in HORIZON_KNOBS)
TIMED = ("max_minutes", "budget")  # horizons whose steps follow from a measured rate

# Saying one of a group replaces the others where a weaker source (preset, file) had said them.
GROUPS: tuple[tuple[str, ...], ...] = (
    HORIZONS,
    ("hidden_size", "aspect_ratio"),
    ("heads", "head_dim"),
    ("total_batch_size", "grad_accum"),
)


def find(spelling: str) -> Knob | None:
    """The knob behind `--block-size`, `block_size` or `max-seq-len`."""
    word = spelling.removeprefix("--").replace("-", "_")
    for knob in KNOBS:
        if word == knob.name or word in knob.aliases or word in knob.switches:
            return knob
    return None
