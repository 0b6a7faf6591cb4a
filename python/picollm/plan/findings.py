"""What is said about a plan: notes on what was rounded or assumed, and the problems that stop `train`."""

import math

from picollm.plan import eightbit, laws
from picollm.plan.facts import DataFacts, Problem
from picollm.plan.fit import out_of_memory
from picollm.plan.knobs import BY_NAME, HORIZONS
from picollm.plan.memory import Place
from picollm.plan.request import Origin, TrainRequest
from picollm.plan.shapes import DEPTH, VOCAB, Choice, width_of
from picollm.plan.trainplan import TrainPlan

CORPUS = "fineweb-edu"


def notes_of(plan: TrainPlan, request: TrainRequest, vocab: Origin, choice: Choice | None) -> tuple[str, ...]:
    """What was rounded, assumed, chosen or held back: said aloud."""
    notes = []
    if vocab.text == "assumed":
        notes.append(f"vocabulary {VOCAB:,} is assumed: there are no shards and no tokenizer yet")
    if choice:
        near = ", ".join(f"d{depth} {ratio:.1f}" for depth, ratio in choice.neighbours)
        notes.append(f"depth {choice.depth} (ratio {choice.ratio:.1f}; {near})")
    size = width_of(plan.model.depth, request)
    if size.asked != size.width:
        notes.append(f"hidden {size.asked:,} → {size.width:,} (rounded up to {size.heads} heads x {size.head_dim})")
    if "halved" in plan.origins["tokens_per_step"].text:
        notes.append(f"tokens/step: {plan.origins['tokens_per_step'].text}")
    wanted = laws.wanted_decay(plan.tokens_per_step, plan.tokens)
    if request.weight_decay is None and plan.schedule.decay < wanted:
        notes.append(
            f"decay held at {plan.schedule.decay:.4g} so that rate x decay <= 0.01; the rule wanted {wanted:.4g}"
        )
    if plan.fp8:
        notes.append(eightbit.note(plan.model))
    if plan.masked_rows:
        slots = plan.rows_per_step + plan.masked_rows
        share = 100 * plan.masked_rows / slots
        notes.append(f"{plan.masked_rows} of {slots} slots of a step are masked ({share:.1f} %)")
    return tuple(notes)


def problems_of(plan: TrainPlan, request: TrainRequest, place: Place, vocab: Origin) -> tuple[Problem, ...]:
    """What stops `train`, in the order in which it is met: usage, missing data, memory."""
    data = plan.data
    found: list[Problem] = []
    if request.depth is None and all(getattr(request, name) is None for name in HORIZONS):
        message = f"nothing says how large or how long; depth {DEPTH} is only an example"
        found.append(Problem(2, message, "--preset laptop, --depth 12 or --target-flops 1e18"))
    if data is None:
        missing = request.shards or request.dataset_name
        message = f"no shards for {missing}" if missing else "no shards here"
        out = f" --out {request.shards}" if request.shards else ""
        for name in ("dataset_config", "dataset_split", "text_column"):
            out += f" {BY_NAME[name].flag} {said}" if (said := getattr(request, name)) else ""
        found.append(Problem(4, message, f"picollm shard {request.dataset_name or CORPUS}{out}"))
    else:
        found += data_problems(plan, data, vocab)
    if not plan.memory.fits:
        found.append(out_of_memory(plan.model, request, place, plan.rows_per_step, plan.device_batch))
    return tuple(found)


def data_problems(plan: TrainPlan, data: DataFacts, vocab: Origin) -> list[Problem]:
    found = []
    if plan.model.vocab_size != data.vocab_size:
        message = f"{vocab} says {plan.model.vocab_size:,} tokens, the shards {data.name} hold {data.vocab_size:,}"
        found.append(Problem(2, message, "leave it out, or make shards with another tokenizer"))
    if data.val_tokens == 0:
        hint = f"picollm shard {data.name} --val-ppm 50000"
        found.append(Problem(4, f"shards {data.name} hold no validation documents", hint))
    if data.train_tokens == 0:
        found.append(Problem(4, f"shards {data.name} hold no training tokens", f"picollm shard {data.name}"))
    elif plan.epochs > plan.max_epochs:
        message = (
            f"the run needs {plan.tokens:,} tokens, shards {data.name} hold {data.train_tokens:,}: "
            f"{plan.epochs:.1f} epochs, at most {plan.max_epochs:g} (--max-epochs)"
        )
        found.append(Problem(4, message, f"picollm shard {data.name} --tokens {rounded_up(plan.tokens)}"))
    return found


def rounded_up(tokens: int) -> str:
    """At least `tokens`, in two digits and a letter: 4,155,506,688 → 4.2B."""
    for letter, unit in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if tokens >= unit:
            digits = 10 ** (len(str(tokens // unit)) - 2)
            scaled = math.ceil(tokens / unit / digits) * digits
            return f"{scaled:.10g}{letter}"
    return str(tokens)
