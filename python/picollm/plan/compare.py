"""What a change changes: two plans, six questions, in one order. Pure."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from picollm.model.counts import Counts, count, flops_per_token
from picollm.plan.knobs import KNOBS, Question
from picollm.plan.laws import WARMDOWN_SHARE
from picollm.plan.memory import LOGIT_BYTES
from picollm.plan.render import GIB, MIB, duration, short
from picollm.plan.trainplan import TrainPlan
from picollm.plan.values import shown, value_of

SCHEMA = "picollm.diff/1"
PLACES = (
    "name",
    "runs_dir",
    "resume",
    "shards",
    "val_shards",
    "dataset_name",
    "tokenizer",
)  # names, not what is behind them
SAME_BYTES = 0.005  # a ledger line that moves by less than this share of the whole is no change of memory
LABELS = {"embed": "wte", "head": "lm_head", "value_embeds": "value", "matrices": "matrices"}


@dataclass(frozen=True)
class Answer:
    """One question. `text` says what changes, or why it does not."""

    question: Question
    changes: bool
    text: str


@dataclass(frozen=True)
class Comparison:
    """`changed`: decisions that differ, as knob → (A, B). `asides`: what no question covers."""

    changed: Mapping[str, tuple[Any, Any]]
    answers: tuple[Answer, ...]
    asides: tuple[str, ...]
    comparable_by: str
    checkpoints: str
    shards: str

    @property
    def same(self) -> bool:
        return not self.changed and not any(answer.changes for answer in self.answers)

    def render(self) -> str:
        said = ", ".join(f"{name} {shown(a)} → {shown(b)}" for name, (a, b) in self.changed.items())
        lines = [f"changed: {said or 'nothing'}"]
        for number, answer in enumerate(self.answers, 1):
            verdict = f"{'YES' if answer.changes else 'no':<4} {answer.text}".rstrip()
            lines.append(f" {number} {answer.question.value + '?':<26} {verdict}")
        lines += [f" also: {aside}" for aside in self.asides]
        lines.append(
            f" comparable by: {self.comparable_by}. Checkpoints interchangeable: {self.checkpoints}. "
            f"Shards reusable: {self.shards}."
        )
        return "\n".join(lines) + "\n"

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "same": self.same,
            "changed": {name: {"a": a, "b": b} for name, (a, b) in self.changed.items()},
            "answers": [
                {"question": answer.question.value, "changes": answer.changes, "text": answer.text}
                for answer in self.answers
            ],
            "also": list(self.asides),
            "comparable_by": self.comparable_by,
            "checkpoints_interchangeable": self.checkpoints == "yes",
            "shards_reusable": self.shards == "yes",
        }


def compare(a: TrainPlan, b: TrainPlan, bytes_per_token: Mapping[int, float] | None = None) -> Comparison:
    """What taking `b` instead of `a` changes. `bytes_per_token`: measured, by vocabulary."""
    measured = dict(bytes_per_token or {})
    for plan in (a, b):
        if plan.data and plan.data.train_tokens and plan.data.train_bytes:
            measured.setdefault(plan.data.vocab_size, plan.data.train_bytes / plan.data.train_tokens)
    answers = (
        distribution(a, b),
        granularity(a, b, measured),
        capacity(a, b),
        memory(a, b),
        stability(a, b),
        budget(a, b),
    )
    tokenizer = other_tokenizer(a, b)
    return Comparison(
        changed=changed(a, b),
        answers=tuple(Answer(question, *answer) for question, answer in zip(Question, answers, strict=True)),
        asides=tuple(asides(a, b)),
        comparable_by="val bpb (not loss)" if tokenizer else "val bpb and loss",
        checkpoints="yes"
        if not tokenizer and weights_of(a) == weights_of(b)
        else f"no{' (other shapes)' * (not tokenizer)}",
        shards="no (different tokenizer)" if tokenizer else "yes",
    )


def changed(a: TrainPlan, b: TrainPlan) -> dict[str, tuple[Any, Any]]:
    """Knobs that a person set differently: said on one side at least, and of another value."""
    found = {}
    for knob in KNOBS:
        sources = {plan.origins[knob.name].source for plan in (a, b) if knob.name in plan.origins}
        pair = value_of(a, knob), value_of(b, knob)
        if knob.name not in PLACES and not knob.plan_only and sources - {"rule"} and pair[0] != pair[1]:
            found[knob.name] = pair
    return found


def other_tokenizer(a: TrainPlan, b: TrainPlan) -> bool:
    if a.model.vocab_size != b.model.vocab_size:
        return True
    return bool(a.data and b.data and a.data.tokenizer_sha256 != b.data.tokenizer_sha256)


def weights_of(plan: TrainPlan) -> dict[str, Any]:
    """What a checkpoint's tensors depend on: windows and the length of rows change no shape."""
    model = plan.model
    names = ("depth", "width", "heads", "head_dim", "kv_heads", "padded_vocab", "value_layers", "backout", "smear")
    return {name: getattr(model, name) for name in names}


def distribution(a: TrainPlan, b: TrainPlan) -> tuple[bool, str]:
    """Which documents, how they are cut, how often they are seen."""
    corpora = [
        (plan.data.name if plan.data else plan.request.get("dataset_name") or plan.request.get("shards"))
        for plan in (a, b)
    ]
    same_text = corpora[0] == corpora[1] or None in corpora
    if a.data and b.data and a.data.fingerprint != b.data.fingerprint:
        same_text = a.data.train_documents == b.data.train_documents and a.data.train_bytes == b.data.train_bytes
    if not same_text:
        return True, f"other documents: {corpora[0]} → {corpora[1]}"
    if a.packing != b.packing:
        return True, f"rows are filled by {a.packing} → {b.packing}: documents are cut in other places"
    notes = []
    if a.seq_len != b.seq_len:
        cut = "more" if b.seq_len < a.seq_len else "fewer"
        notes.append(f"the same text; rows of {b.seq_len:,} instead of {a.seq_len:,} tokens cut {cut} documents")
    if a.seed != b.seed:
        notes.append("the same documents in another order")
    if max(a.epochs, b.epochs) > 1 and abs(a.epochs - b.epochs) > 0.1:
        notes.append(f"passes over it: {a.epochs:.2f} → {b.epochs:.2f}")
    return False, "; ".join(notes)


def granularity(a: TrainPlan, b: TrainPlan, measured: Mapping[int, float]) -> tuple[bool, str]:
    """How much text a token holds."""
    vocab_a, vocab_b = a.model.vocab_size, b.model.vocab_size
    if not other_tokenizer(a, b):
        return False, ""
    if vocab_a == vocab_b:
        return True, f"another tokenizer of {vocab_a:,} tokens"
    grade = "coarser" if vocab_b > vocab_a else "finer"
    if vocab_a in measured and vocab_b in measured:
        before, after = measured[vocab_a], measured[vocab_b]
        less = 100 * (1 - before / after)
        sign = f"{abs(less):.0f} % {'fewer' if less > 0 else 'more'} tokens for the same text"
        return True, f"{grade}: {before:.2f} → {after:.2f} bytes/token → {sign}"
    return True, f"{grade}: {vocab_a:,} → {vocab_b:,} tokens; bytes/token not measured here for both"


def capacity(a: TrainPlan, b: TrainPlan) -> tuple[bool, str]:
    """Parameters, and how far each layer sees."""
    before, after = count(a.model), count(b.model)
    if before != after:
        text = f"{short(before.total)} → {short(after.total)}"
        parts = [
            f"{label} {difference(after, before, name)}"
            for name, label in LABELS.items()
            if differs(before, after, name)
        ]
        inside = f" ({', '.join(parts)})" if parts else ""
        kept = "" if differs(before, after, "matrices") else f"; matrices stay {short(before.matrices)}"
        return True, text + (", all in embeddings" if kept else "") + inside + kept
    if a.model.heads != b.model.heads or a.model.kv_heads != b.model.kv_heads:
        text = (
            f"attention divided otherwise: {a.model.heads} x {a.model.head_dim} → {b.model.heads} x {b.model.head_dim}"
        )
        return True, text + f"; parameters stay {short(before.total)}"
    if a.model.window_pattern != b.model.window_pattern:
        reach = f"{a.model.window_pattern} → {b.model.window_pattern}"
        return True, f"how far each layer sees: {reach}; parameters stay {short(before.total)}"
    return False, f"parameters stay {short(before.total)}"


def differs(a: Counts, b: Counts, name: str) -> bool:
    return bool(getattr(a, name) != getattr(b, name))


def difference(after: Counts, before: Counts, name: str) -> str:
    value = getattr(after, name) - getattr(before, name)
    return f"{'+' if value >= 0 else '-'}{short(abs(value))}"


def memory(a: TrainPlan, b: TrainPlan) -> tuple[bool, str]:
    """Per device: the ledger's lines that move, and what one row needs where the batch adapts."""
    moved = []
    one = max(a.memory.total, b.memory.total)
    unit, name = (GIB, "GiB") if one >= GIB else (MIB, "MiB")
    for field in ("weights", "gradients", "optimizer", "activations", "logits", "workspace", "holes"):
        before, after = getattr(a.memory, field), getattr(b.memory, field)
        if abs(after - before) > SAME_BYTES * one:
            moved.append(f"{field} {before / unit:.1f} → {after / unit:.1f}")
    rows = f"rows {a.device_batch} → {b.device_batch}"
    per_row = a.memory.activations / a.device_batch, b.memory.activations / b.device_batch
    row_moved = abs(per_row[0] - per_row[1]) > SAME_BYTES * max(per_row)
    total = f"{a.memory.total / unit:.1f} → {b.memory.total / unit:.1f} {name}"
    if not moved and not row_moved:
        return False, f"per device {a.memory.total / unit:.1f} {name}"
    if row_moved and a.device_batch != b.device_batch:
        size, label = (GIB, "GiB") if max(per_row) >= GIB else (MIB, "MiB")
        moved.append(f"activations of one row {per_row[0] / size:.2f} → {per_row[1] / size:.2f} {label}, {rows}")
    elif a.device_batch != b.device_batch:
        moved.append(rows)
    whole = [p.device_batch * p.seq_len * p.model.padded_vocab * LOGIT_BYTES[p.dtype] / unit for p in (a, b)]
    if a.model.padded_vocab != b.model.padded_vocab:
        moved.append(f"logits without chunking {whole[0]:.1f} → {whole[1]:.1f}")
    return True, f"{total} per device: " + "; ".join(moved)


RATE_NAMES = {"matrix": "matrices", "unembed": "head", "embed": "embedding", "x0_scale": "scalars"}


def stability(a: TrainPlan, b: TrainPlan) -> tuple[bool, str]:
    """Peak rates, the batch they are for, warm-up and warm-down, number format. Decay by rule follows the tokens."""
    moved = []
    for role, label in RATE_NAMES.items():
        before, after = peak(a, role), peak(b, role)
        if abs(after / before - 1) > 1e-9:
            moved.append(f"{label} peak {before:.4g} → {after:.4g}")
    if a.tokens_per_step != b.tokens_per_step:
        moved.append(f"tokens/step {a.tokens_per_step:,} → {b.tokens_per_step:,}")
    for label, read in SHAPES.items():
        if read(a) != read(b) and (a.steps == b.steps or said(a, b, label)):
            moved.append(f"{label.replace('_', ' ')} {shown(read(a))} → {shown(read(b))}")
    if a.dtype != b.dtype:
        moved.append(f"precision {a.dtype} → {b.dtype}: other rounding")
    decay = f"decay {a.schedule.decay:.4g} → {b.schedule.decay:.4g}"
    if said(a, b, "weight_decay") and a.schedule.decay != b.schedule.decay:
        moved.append(decay)
    if moved:
        return True, "; ".join(moved)
    kept = "peak rates and tokens/step identical"
    follows = "" if a.schedule.decay == b.schedule.decay else f"; {decay} follows the tokens, by rule"
    seed = "; initial values differ by chance" if a.seed != b.seed else ""
    return False, kept + follows + seed


SHAPES: Mapping[str, Callable[[TrainPlan], float]] = {
    "warmup_steps": lambda plan: plan.schedule.warmup,
    "warmdown_ratio": lambda plan: plan.request.get("warmdown_ratio", WARMDOWN_SHARE),
}


def said(a: TrainPlan, b: TrainPlan, knob: str) -> bool:
    return any(plan.origins[knob].source != "rule" for plan in (a, b) if knob in plan.origins)


def peak(plan: TrainPlan, role: str) -> float:
    return plan.optim.muon.lr if role == "matrix" else plan.optim.adamw[role].lr


def budget(a: TrainPlan, b: TrainPlan) -> tuple[bool, str]:
    """Tokens, FLOPs, and what they take."""
    changes = a.tokens != b.tokens or a.flops != b.flops
    steps = f"{a.steps:,} → {b.steps:,} steps" if a.steps != b.steps else f"{a.steps:,} steps"
    if not changes:
        return False, f"{short(a.tokens)} tokens, {steps}, {scientific(a.flops)} FLOPs"
    tokens = f"{short(a.tokens)} → {short(b.tokens)} tokens" if a.tokens != b.tokens else f"{short(a.tokens)} tokens"
    share = 100 * (b.flops / a.flops - 1)
    flops = f"{scientific(a.flops)} → {scientific(b.flops)} FLOPs ({share:+.0f} %)"
    ratio = ""
    if a.horizon == b.horizon == "target_param_data_ratio" and count(a.model).scaling != count(b.model).scaling:
        ratio = f"ratio {b.ratio:.3g} x ({short(count(a.model).scaling)} → {short(count(b.model).scaling)}): "
    per_token = flops_per_token(a.model), flops_per_token(b.model)
    each = (
        f", {scientific(per_token[0])} → {scientific(per_token[1])} per token" if per_token[0] != per_token[1] else ""
    )
    time = ""
    if a.estimate.seconds and b.estimate.seconds:
        time = f", {duration(a.estimate.seconds)} → {duration(b.estimate.seconds)}"
    return True, f"{ratio}{tokens}, {steps}, {flops}{each}{time}"


def asides(a: TrainPlan, b: TrainPlan) -> Iterator[str]:
    """What is worth saying and is none of the six."""
    same_total = a.tokens_per_step == b.tokens_per_step
    if same_total and (a.device_batch, a.micro_steps, a.ranks) != (b.device_batch, b.micro_steps, b.ranks):
        yield (
            f"throughput: {a.device_batch} rows x {a.ranks} x accum {a.micro_steps} → "
            f"{b.device_batch} rows x {b.ranks} x accum {b.micro_steps}; the result stays"
        )
    if a.dtype != b.dtype:
        yield f"precision: {a.dtype} → {b.dtype}; the narrower format is faster where the device has units for it"
    if a.device != b.device or a.compile != b.compile:
        yield f"speed: {a.device}{' compiled' * a.compile} → {b.device}{' compiled' * b.compile}"


def scientific(value: float) -> str:
    return f"{value:.2e}".replace("e+", "e")
