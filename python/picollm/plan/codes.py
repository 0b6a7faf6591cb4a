"""The catalogue of coded warnings and errors: when each is raised, why it matters, what to do at about equal cost."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Code:
    """`by`: the command or moment that says it. `knobs`: the decisions that bring it about or mend it."""

    code: str
    when: str
    why: str
    remedy: str
    by: str
    knobs: tuple[str, ...] = ()


CODES = (
    Code(
        "W101", "conversations are given to `shard`", by="shard", knobs=("dataset_name",),
        why="A shard of base pretraining holds running text: roles would become plain words, and the loss would fall on"
        " what the user says too.",
        remedy="picollm sft --dataset-name SOURCE, which renders turns and masks the loss",
    ),
    Code(
        "W102", "plain text is given to `sft`", by="sft", knobs=("dataset_name",),
        why="Fine-tuning learns what the assistant says; running text has no turns, and nothing in it would be asked.",
        remedy="picollm shard SOURCE, then picollm train",
    ),
    Code(
        "W103", "the text column is often empty or looks like metadata", by="shard, data peek", knobs=("dataset_name",),
        why="Addresses, titles and labels tokenize as well as prose does; the mistake shows only after training.",
        remedy="look with picollm data peek SOURCE; name another --text-column",
    ),
    Code(
        "W104", "--chat-format roles on rows without alternating turns", by="data peek", knobs=("dataset_name",),
        why="Roles that are not in the rows would have to be invented.",
        remedy="--chat-format plain, or a set whose rows hold lists of turns",
    ),
    Code(
        "W105", "the vocabulary has more than one token per 100 bytes of training text", by="plan",
        knobs=("vocab_size", "dataset_name"),
        why="Rare tokens are met a few times or never: their rows stay where chance put them.",
        remedy="a smaller --vocab-size for the tokenizer, or more text",
    ),
    Code(
        "W201", "more than half of the parameters are embeddings", by="plan", knobs=("vocab_size", "depth"),
        why="Tables are looked up, matrices compute. In a small model a large vocabulary takes most of the memory and"
        " none of the thinking.",
        remedy="a smaller --vocab-size (the warning says what it saves), or a deeper model",
    ),
    Code(
        "W202", "head dim below 32", by="plan", knobs=("heads", "head_dim"),
        why="A narrow head has little to compare with, and kernels run far below their speed.",
        remedy="fewer heads at the same width: the warning gives the numbers",
    ),
    Code(
        "W203", "width over depth outside 32 to 128", by="plan", knobs=("depth", "hidden_size", "aspect_ratio"),
        why="Rates were searched near 64 channels per layer, and the loss is flat only within that range.",
        remedy="the shape of about equal matrices that the warning names",
    ),
    Code(
        "W204", "the vocabulary is not a multiple of 64", by="plan", knobs=("vocab_size",),
        why="Tables are padded to whole tiles: the padded rows cost memory and mean nothing.",
        remedy="a multiple of 64",
    ),
    Code(
        "W301", "a sliding window pattern without a sliding kernel", by="plan", knobs=("window_pattern",),
        why="The windows run as masked full attention on GPUs before Ampere and on Apple's, which costs more than full"
        " attention itself. The plan stays:"
        " a model must not depend on the machine it was started on.",
        remedy="--window-pattern L on machines that will never have such a kernel: another model",
    ),
    Code(
        "W302", "bf16 on a GPU before Ampere", by="plan", knobs=("dtype",),
        why="Such GPUs have no bf16 units: the arithmetic is emulated and slower than fp32.",
        remedy="--dtype fp32",
    ),
    Code(
        "W303", "fp8 on a small model", by="plan", knobs=("fp8",),
        why="Finding the scale of every tensor costs a fixed time; below depth 20 the matmuls do not earn it back.",
        remedy="--fp8=auto, or leave it out",
    ),
    Code(
        "E302", "fp8 where it cannot run", by="plan, train (exit 2)", knobs=("fp8",),
        why="Eight-bit matmuls are a unit of NVIDIA GPUs from SM 89 on, and worth it only when compiled.",
        remedy="--fp8=auto, which uses it only where it helps",
    ),
    Code(
        "W304", "torch.compile is not available", by="doctor, train", knobs=("compile",),
        why="Without a compiler backend (Triton on GPUs, a C++ compiler on CPUs) the model runs eagerly.",
        remedy="install the backend, or --compile off to say that it is meant",
    ),
    Code(
        "W305", "more GPUs seen than used", by="plan, train", knobs=("nproc",),
        why="The total batch stays the same on any number of devices: only the wait changes.",
        remedy="--nproc-per-node with their number",
    ),
    Code(
        "W401", "more than 1.5 passes over the training text; said more strongly from 4 on", by="plan",
        knobs=("num_iterations", "target_flops", "max_epochs"),
        why="Repetition helps less each time; past four passes the model learns the text by heart. `train` stops"
        " there unless --max-epochs is raised.",
        remedy="more text: picollm shard SOURCE --tokens N",
    ),
    Code(
        "W402", "warm-up over 10 % or under 0.2 % of the run", by="plan", knobs=("warmup_steps",),
        why="Too long, and the run walks where it could train; too short, and the first updates jump.",
        remedy="the rule's number, which the warning names",
    ),
    Code(
        "W403", "five validations in a row are worse than the best while training improves", by="train",
        knobs=("max_epochs", "num_iterations", "dataset_name"),
        why="The model has begun to learn its text by heart: what it gains on rows it has seen it loses on others.",
        remedy="use the best checkpoint, which is kept; for another run fewer steps or more text",
    ),
    Code(
        "W404", "tokens per scaling parameter below 5 or above 100", by="plan",
        knobs=("target_param_data_ratio", "depth", "num_iterations"),
        why="Far below 8 to 12 a smaller model would be better for the same money; far above, a larger one.",
        remedy="another --depth or another horizon",
    ),
    Code(
        "W405", "the total batch is outside half to twice the law's", by="plan",
        knobs=("total_batch_size", "grad_accum", "device_batch_size"),
        why="Too large a batch wastes tokens, too small a one wastes devices.",
        remedy="leave --total-batch-size out, or accept: rates are scaled to the batch you gave",
    ),
    Code(
        "W406", "more than 30 minutes between checkpoints, or too little disk for them", by="plan",
        knobs=("save_every", "keep"),
        why="A crash costs the time since the last save; a full disk costs the next one.",
        remedy="--save-every 15min; --keep 1",
    ),
    Code(
        "W407", "the run takes over seven days on this machine", by="plan", knobs=("target_flops", "depth", "nproc"),
        why="Most people who ask for this meant another machine.",
        remedy="a smaller budget, more devices, or --gpu to plan for another machine",
    ),
    Code(
        "W501", "more than a tenth of a step waits for rows", by="train, plan --measure", knobs=("workers",),
        why="The device idles while the loader fills the next batch: you pay for it all the same.",
        remedy="more --workers (the warning names a number), or a faster disk",
    ),
    Code(
        "E501", "the loss stopped being a finite number, three times", by="train (exit 1)", knobs=("learning_rate",),
        why="Steps that are not finite, or spike, are skipped and change nothing. Three in a row take the run back to"
        " its last checkpoint, without the rows of those steps; after two returns, or with no checkpoint, it stops.",
        remedy="a smaller --learning-rate under another --name; the last good state was saved",
    ),
    Code(
        "E503", "a step does not fit in memory", by="plan, train (exit 5)",
        knobs=("device_batch_size", "max_seq_len", "vocab_size", "depth"),
        why="Weights, gradients, optimizer, activations and logits together exceed what the device has.",
        remedy="one of the three changes listed with it; the first keeps the result",
    ),
)  # fmt: skip
BY_CODE = {code.code: code for code in CODES}
