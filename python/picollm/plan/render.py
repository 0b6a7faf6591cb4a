"""A plan as text for people and as JSON for programs. `plan`, `train --dry-run` and a run's header print the same."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from picollm.model.counts import checkpoint_bytes, count, flops_per_token, flops_per_token_causal
from picollm.plan.facts import Warning
from picollm.plan.knobs import BY_NAME
from picollm.plan.laws import batch_scale, lr_scale, width_scale
from picollm.plan.memory import LOGIT_BYTES, Memory, table_bytes
from picollm.plan.rates import ADAMW
from picollm.plan.trainplan import TrainPlan

SCHEMA = "picollm.plan/1"
GIB, MIB = 2**30, 2**20
DAY, HOUR, MINUTE = 86_400, 3600, 60


def render(plan: TrainPlan) -> str:
    """The four layers, parameters, both questions, memory, disk, what was said aloud, and the command."""
    sections = (data_lines, token_lines, shape_lines, effort_lines, resource_lines, finding_lines)
    lines = [line for section in sections for line in section(plan)]
    return "\n".join([*lines, labelled("run it", command(plan))]) + "\n"


def labelled(label: str, text: str) -> str:
    return f"   {label:<28} {text}"


def data_lines(plan: TrainPlan) -> Iterator[str]:
    data = plan.data
    if data is None:
        yield " 1 data         no shards yet"
    else:
        sizes = f"{short(data.train_tokens)} train tokens, {short(data.val_tokens)} validation"
        yield f" 1 data         {data.path}  {data.fingerprint[:12]}   {sizes}; seed {plan.seed}"


def token_lines(plan: TrainPlan) -> Iterator[str]:
    vocab, data = plan.model.vocab_size, plan.data
    origin = plan.origins["vocab_size"]
    text = f" 2 tokens       {vocab:,} ids [{origin}], rows of {plan.seq_len:,} tokens, {plan.packing}"
    if data and data.train_bytes and data.train_tokens:
        text += f"   {data.train_bytes / data.train_tokens:.2f} bytes/token"
    text += f"   tokenizer {data.tokenizer_sha256[:12]}" if data else ""
    yield text + ("   re-shard: not needed" if plan.origins["max_seq_len"].source != "rule" else "")


def shape_lines(plan: TrainPlan) -> Iterator[str]:
    model, counts = plan.model, count(plan.model)
    heads = f"{model.heads} heads x {model.head_dim}"
    heads += f" ({model.kv_heads} for keys)" if model.kv_heads != model.heads else ""
    yield (
        f" 3 shape        depth {model.depth} [{plan.origins['depth']}]: {model.depth} layers x {model.width} wide, "
        f"{heads}, {model.window_pattern}, {model.arch}"
    )
    windows = " ".join(str(model.seq_len if window is None else window) for window in model.windows)
    yield f"      windows   {windows}"
    yield f"      {'parameters':<18} {'count':>10} {'share':>8}   optimizer"
    sizes = {
        "token embedding": (counts.embed, "embed"),
        "value embeddings": (counts.value_embeds, "value_embed"),
        "lm_head": (counts.head, "unembed"),
        "matrices": (counts.matrices, "matrix"),
        "residual scales": (model.depth * model.resid_scales, "resid_scale"),
        "x0 scales": (model.depth * model.resid_scales, "x0_scale"),
    }
    for label, (size, role) in sizes.items():
        if size:
            yield f"      {label:<18} {short(size):>10} {100 * size / counts.total:>6.1f} %   {rate_of(plan, role)}"
    yield f"      {'total':<18} {short(counts.total):>10}             {flops_per_token(model):.3e} FLOPs/token"


def rate_of(plan: TrainPlan, role: str) -> str:
    """Rule, peak rate, and the factors that made it."""
    size, width = (plan.tokens_per_step, plan.steps), width_scale(plan.model.width)
    if role == "matrix":
        peak, batch, by_width = plan.optim.muon.lr, lr_scale(*size), False
    else:
        known = ADAMW[role]
        peak, batch, by_width = plan.optim.adamw[role].lr, known.batch(*size), known.by_width
    factors = batch * (width if by_width else 1.0)
    held = batch > batch_scale(plan.tokens_per_step)
    why = f"x{batch:.3f} {'short run' if held else 'batch'}" + (f", x{width:.3f} width" if by_width else "")
    rule = "Muon " if role == "matrix" else "AdamW"
    return f"{rule} {peak / factors:.3g} -> peak {peak:.4g} ({why})"


def effort_lines(plan: TrainPlan) -> Iterator[str]:
    devices = {"cuda": "GPU", "mps": "GPU"}.get(plan.device, "process") + ("" if plan.ranks == 1 else "s")
    devices = devices.replace("processs", "processes")
    product = f"{plan.device_batch} seq x {plan.seq_len:,} tok x {plan.ranks} {devices} x accum {plan.micro_steps}"
    masked = f" - {plan.masked_rows} masked rows" if plan.masked_rows else ""
    yield f" 4 effort       {product}{masked} = {plan.tokens_per_step:,} tokens/step"
    s = plan.schedule
    yield (
        f"      schedule  warm-up {s.warmup}, momentum ramp {s.ramp}, warm-down {s.warmdown} of {s.steps:,} steps; "
        f"Muon decay {s.decay:.4f}"
    )
    epochs = f" = {plan.epochs:.2f} epochs of {short(plan.data.train_tokens)}" if plan.data else ""
    yield labelled(
        "How much language it sees",
        f"{plan.steps:,} steps = {plan.tokens:,} tokens ({short(plan.tokens)}){epochs} · "
        f"{plan.ratio:.3g} tokens per scaling parameter",
    )
    yield labelled("How long it takes", time_text(plan))


def time_text(plan: TrainPlan) -> str:
    estimate = plan.estimate
    took = duration(estimate.seconds) if estimate.seconds else "unknown"
    price = f"${estimate.dollars(plan.ranks):,.2f}" if estimate.price else "cost: set --price-per-gpu-hour"
    return f"{estimate.source} = {took} · {price}"


def memory_unit(memory: Memory) -> tuple[int, str]:
    """The unit in which the ledger's smaller lines still show."""
    return (GIB, "GiB") if memory.weights >= GIB / 10 else (MIB, "MiB")


def memory_parts(memory: Memory, whole_logits: int = 0) -> str:
    """`weights 28 · grads 28 · … = 1,260 MiB`. `whole_logits`: bytes of logits that are never all there at once."""
    unit, name = memory_unit(memory)

    def figure(count: int) -> str:
        return f"{count / unit:,.1f}" if unit == GIB or count < 10 * unit else f"{count / unit:,.0f}"

    holes = f" · heap holes {figure(memory.holes)}" if memory.holes else ""
    chunked = f" (not chunked: {figure(whole_logits)})" if whole_logits else ""
    return (
        f"weights {figure(memory.weights)} · grads {figure(memory.gradients)} · optimizer {figure(memory.optimizer)} · "
        f"activations {figure(memory.activations)} · logits {figure(memory.logits)}{chunked} · "
        f"rest {figure(memory.workspace)}{holes} = {figure(memory.total)} {name}"
    )


def resource_lines(plan: TrainPlan) -> Iterator[str]:
    m, tokens = plan.memory, plan.device_batch * plan.seq_len
    parts = memory_parts(m, tokens * plan.model.padded_vocab * LOGIT_BYTES[plan.dtype])
    parts += f" of {m.available / GIB:,.0f}" + ("" if parts.endswith("GiB") else " GiB") if m.available else ""
    yield labelled("memory/device", parts)
    if plan.measured:
        unit, name = memory_unit(m)
        rate = plan.tokens_per_step / plan.measured.step
        peak = f"peak memory {m.measured / unit:,.{1 if unit == GIB else 0}f} {name}, {rate:,.0f} tokens/s"
        yield labelled("measured", f"{plan.measured}; {peak}")
    d = plan.disk
    have = f" (have {size(d.shards_present)})" if d.shards_present else ""
    written, kept = size(d.written * d.checkpoint, 0), size(d.kept * d.checkpoint, 0)
    yield labelled(
        "disk",
        f"shards {size(d.shards_needed)} needed{have} · {d.written} checkpoints x {size(d.checkpoint)} = {written}; "
        f"kept: {d.kept} = {kept}",
    )
    device = (
        f"{plan.machine}: {plan.device}, {plan.dtype}{' + fp8' * plan.fp8}, {'compiled' if plan.compile else 'eager'}"
    )
    cadence = f"evaluate every {plan.eval_every} steps on {plan.val_tokens:,} tokens, save every {plan.save_every}"
    yield labelled("run", f"{plan.name} on {device}; {cadence}")


def finding_lines(plan: TrainPlan) -> Iterator[str]:
    for note in plan.notes:
        yield labelled("note", note)
    for warning in plan.warnings:
        yield labelled("warning", str(warning))
    for problem in plan.problems:
        yield labelled(f"stops train (exit {problem.exit_code})", f"{problem.message}: {problem.hint}")


def command(plan: TrainPlan) -> str:
    """The command that trains this plan: what was said, in canonical spelling, and the shards it was made for."""
    presets = {origin.text for name, origin in plan.origins.items() if origin.source == "preset"}
    said = {name: value for name, value in plan.request.items() if plan.origins[name].source not in ("preset", "rule")}
    if plan.data and "shards" not in said:
        said = {"shards": plan.data.path, **said}
    words = [word for preset in sorted(presets) for word in ("--preset", preset)]
    for name, value in said.items():
        knob = BY_NAME[name]
        if knob.plan_only or name == "nproc":
            continue
        if isinstance(value, bool):
            words.append(knob.flag if value else knob.flag.replace("--", "--no-", 1))
        else:
            words += [knob.flag, f"{value:.12g}".replace("e+", "e") if isinstance(value, float) else str(value)]
    door = ["picollm", "train"]
    if plan.ranks > 1:
        door = ["torchrun", "--standalone", "--nproc-per-node", str(plan.ranks), "-m", "picollm.train"]
    return shlex.join([*door, *words])


def as_json(plan: TrainPlan) -> dict[str, Any]:
    """What `plan --json` prints (decision 27): counts, bytes and seconds as numbers."""
    model, counts = plan.model, count(plan.model)
    memory = {name: getattr(plan.memory, name) for name in ("weights", "gradients", "optimizer", "activations")}
    memory |= {
        name: getattr(plan.memory, name) for name in ("logits", "workspace", "holes", "total", "measured", "available")
    }
    params = {name: getattr(counts, name) for name in ("embed", "value_embeds", "head", "matrices", "scalars", "total")}
    return {
        "schema": SCHEMA,
        "name": plan.name,
        "depth": model.depth,
        "width": model.width,
        "heads": model.heads,
        "head_dim": model.head_dim,
        "vocab_size": model.vocab_size,
        "seq_len": model.seq_len,
        "window_pattern": model.window_pattern,
        "windows": [model.seq_len if window is None else window for window in model.windows],
        "steps": plan.steps,
        "tokens": plan.tokens,
        "tokens_per_step": plan.tokens_per_step,
        "device_batch": plan.device_batch,
        "ranks": plan.ranks,
        "micro_steps": plan.micro_steps,
        "flops": plan.flops,
        "flops_per_token": flops_per_token(model),
        "flops_per_token_causal": flops_per_token_causal(model),
        "ratio": plan.ratio,
        "epochs": plan.epochs,
        "params": params | {"scaling": counts.scaling, "embedding_share": counts.embedding_share},
        "rates": {"matrix": plan.optim.muon.lr} | {role: group.lr for role, group in plan.optim.adamw.items()},
        "schedule": plan.to_json()["schedule"],
        "memory": memory | {"fits": plan.memory.fits},
        "disk": plan.to_json()["disk"],
        "measured": plan.measured.to_json() if plan.measured else None,
        "time": plan.to_json()["estimate"] | {"dollars": plan.estimate.dollars(plan.ranks)},
        "origins": {name: str(origin) for name, origin in plan.origins.items()},
        "notes": list(plan.notes),
        "warnings": [warning_json(warning) for warning in plan.warnings],
        "problems": [{"exit_code": one.exit_code, "message": one.message, "hint": one.hint} for one in plan.problems],
        "checkpoint_bytes": checkpoint_bytes(model, table_bytes(plan.device)),
        "command": command(plan),
    }


def warning_json(warning: Warning) -> Mapping[str, str]:
    return {"code": warning.code, "text": warning.text, "remedy": warning.remedy}


def short(value: float) -> str:
    """Three digits and a letter: 4.16 B, 75.5 M, 12.3 K, 37."""
    for letter, unit in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if value >= unit:
            scaled = value / unit
            return f"{scaled:.2f} {letter}" if scaled < 10 else f"{scaled:,.1f} {letter}"
    return f"{value:g}"


def size(count: int, digits: int = 1) -> str:
    """Bytes as GB or MB (powers of ten, as disks are sold); totals take no digits."""
    unit, name = (10**9, "GB") if count >= 10**9 else (10**6, "MB")
    return f"{count / unit:,.{digits}f} {name}"


def duration(seconds: float) -> str:
    """`12 s`, `47 min`, `3 h 56 m 40 s`, `31 days`."""
    if seconds < MINUTE:
        return f"{seconds:.0f} s"
    if seconds < HOUR:
        return f"{seconds / MINUTE:.0f} min"
    if seconds >= 2 * DAY:
        return f"{seconds / DAY:,.1f} days"
    whole = round(seconds)
    return f"{whole // HOUR} h {whole % HOUR // MINUTE} m {whole % MINUTE} s"
