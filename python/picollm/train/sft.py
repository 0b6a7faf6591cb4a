"""Fine-tuning on conversations: same step, loss, optimizer and checkpoints as the base run, other rows."""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import torch

from picollm.ckpt import protocol
from picollm.ckpt.schema import STATE, TOKENIZER, State
from picollm.ckpt.store import find_checkpoint, load_model
from picollm.ckpt.tensors import Tensors
from picollm.ckpt.weights import load_weights
from picollm.conversation import BOS, Conversation, Rendered, render
from picollm.corpus.smalltalk import DEFAULT_SEED, Identity, Smalltalk, smalltalk
from picollm.errors import MissingError, PicoError, PlanMismatch
from picollm.evals.bpb import bits_per_byte
from picollm.evals.facts import score
from picollm.evals.result import BitsPerByte
from picollm.infer.engine import Engine
from picollm.loader.chats import read_chats, read_folder
from picollm.loader.dialogs import DialogFacts, Dialogs, pack
from picollm.model.init import build
from picollm.model.roles import roles
from picollm.optim.sharded import Optimizer
from picollm.plan.facts import DataFacts
from picollm.plan.horizon import device_batch
from picollm.plan.sft import SftRequest, finetune, rows_per_step
from picollm.plan.trainplan import TrainPlan, same_run
from picollm.runtime import device as devices
from picollm.runtime import durable
from picollm.runtime.dist import World
from picollm.runtime.precision import compute_dtype
from picollm.runtime.runlog import RunLog, open_log
from picollm.runtime.signals import watch
from picollm.runtime.together import on_rank_zero
from picollm.runtime.trackers import names, open_trackers
from picollm.tok.tokenizer import Tokenizer
from picollm.train.due import renew_log, write_best
from picollm.train.kernels import attention_of
from picollm.train.opening import Opened, begin, enter, read_plan, standing
from picollm.train.run import carry_out, header, leave
from picollm.train.state import Home, Parts, restore, versions
from picollm.train.validate import Watched

MOST_ASKED = 40  # facts of one kind; their order is a hash, so the first are a fair sample
# Facts are to be learned by heart there: 1.2 was the best of 0.25, 0.5, 0.8, 1.2 and 1.6 (dev/LOG.md 2026-11-22).
SMALLTALK_RATE_SCALE = 1.2
VAL_PPM = 50_000  # of a chat file's conversations, by the hash of their content; as many as of the stdlib corpus


@dataclass(frozen=True)
class Chats:
    """Conversations to learn from and to validate on; `name` is what the run says it was tuned on."""

    name: str
    train: Sequence[Conversation]
    val: Sequence[Conversation]


def split_chats(name: str, conversations: Sequence[Conversation], val_ppm: int = VAL_PPM) -> Chats:
    """Validation by content: a conversation stays on its side when others come or go, and so do its copies."""

    def held(conversation: Conversation) -> bool:
        text = json.dumps(conversation.to_json(), sort_keys=True).encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") % 1_000_000 < val_ppm

    sides: tuple[list[Conversation], list[Conversation]] = ([], [])
    for conversation in conversations:
        sides[held(conversation)].append(conversation)
    return Chats(name, *sides)


@dataclass(frozen=True)
class Base:
    """The model that is tuned: its checkpoint, plan and tokenizer."""

    path: Path
    sha256: str
    state: State
    plan: TrainPlan
    tokenizer: Tokenizer

    @classmethod
    def open(cls, path: Path) -> "Base":
        """Raises MissingError for a folder without a checkpoint or without the plan of its run."""
        found = find_checkpoint(path)
        manifest = protocol.verify(found)
        plan = read_plan(found.parent.parent)
        if plan is None:
            raise MissingError(
                f"{found.parent.parent}: no plan.json", hint="name the run's folder, as training left it"
            )
        return cls(found, manifest.sha256, State.read(found / STATE), plan, Tokenizer.load(found / TOKENIZER))


def run_sft(
    model: Path,
    chats: Chats,
    request: SftRequest,
    runs: Path,
    *,
    device: str | None = None,
    log: str | None = None,
    screen: TextIO | None = sys.stderr,
) -> Path:
    """Tune `model` (a run or checkpoint folder) on `chats`, or go on with a tuning that was stopped; its folder.

    `log`: dashboards beside `metrics.jsonl`, as `--log` names them. Raises as `run_training` does; every rank of a
    torchrun world calls this.
    """
    names(log)  # before anything is opened
    with World.open(devices.choose(device)) as world, ExitStack() as hold:
        screen = screen if world.rank == 0 else None
        devices.settle(world.device)
        base = Base.open(model)
        rendered = [render(conversation, base.tokenizer) for conversation in chats.train]
        per_pass = rows_in_a_pass(rendered, base.plan.seq_len + 1)
        per_step = rows_per_step(request, base.plan, per_pass)
        seed = base.plan.seed if request.seed is None else request.seed
        rows = rows_of(base, rendered, world, per_step, request.device_batch_size, seed)
        plan = plan_of(base, chats, request, rows, per_pass)
        found = on_rank_zero(world, lambda: open_tuning(plan, runs, base, hold).to_json())
        opened = Opened.from_json(found)
        if opened.finished:
            if screen:
                print(f"{opened.directory}: finished, {opened.plan.steps:,} steps; nothing to do", file=screen)
            return opened.directory
        try:
            on_rank_zero(world, lambda: begin(opened, versions()))
            tune(opened, base, chats, rows, world, screen, log)
        except PicoError as error:
            leave(opened.directory, world, type(error).__name__, error.exit_code, error.message)
            raise
        return opened.directory


def rows_in_a_pass(rendered: Sequence[Rendered], row_tokens: int) -> int:
    return len(pack([min(len(one.ids), row_tokens) for one in rendered], row_tokens))


def rows_of(
    base: Base, rendered: Sequence[Rendered], world: World, per_step: int, batch: int | None, seed: int | None
) -> Dialogs:
    """The rows of rendered conversations for this rank. Without a seed: one pass in fixed order, for validation."""
    return Dialogs(
        rendered,
        seq_len=base.plan.seq_len,
        batch_size=device_batch(per_step, world.size, batch or base.plan.device_batch),
        rows_per_step=per_step,
        bos=base.tokenizer.specials[BOS],
        rank=world.rank,
        world_size=world.size,
        seed=seed or 0,
        epochs=1 if seed is None else None,
        shuffle=seed is not None,
        device=str(world.device),
    )


def plan_of(base: Base, chats: Chats, request: SftRequest, rows: Dialogs, per_pass: int) -> TrainPlan:
    facts = rows.facts
    data = DataFacts(
        name=chats.name,
        path=chats.name,
        fingerprint=rows.fingerprint,
        tokenizer_sha256=base.tokenizer.fingerprint,
        vocab_size=base.tokenizer.vocab_size,
        train_tokens=facts.tokens,
        val_tokens=sum(len(render(one, base.tokenizer).ids) for one in chats.val),
        train_documents=facts.conversations,
        val_documents=len(chats.val),
    )
    plan = finetune(base.plan, request, data, per_pass)
    return replace(
        plan,
        ranks=rows.world_size,
        device=rows.device.type,
        device_batch=rows.batch_size,
        micro_steps=rows.micro_steps,
        request={**plan.request, "base_sha256": base.sha256},
    )


def open_tuning(plan: TrainPlan, runs: Path, base: Base, hold: ExitStack) -> Opened:
    """Lock the run that `plan` names and find where it stands. Raises PlanMismatch for another run of this name."""
    directory = runs / plan.name
    saved = read_plan(directory)
    if saved is not None:
        differ = same_run(saved, plan)
        if (was := saved.request.get("base_sha256")) != base.sha256:
            differ.append(f"base: {was}, now {base.sha256}")
        if differ:
            raise PlanMismatch(
                f"{directory} was started with another plan: {'; '.join(differ)}",
                hint="give the options it was started with, or another --name",
            )
    enter(directory, hold)
    return Opened(directory, plan) if saved is None else standing(directory, plan)


def tune(
    opened: Opened, base: Base, chats: Chats, rows: Dialogs, world: World, screen: TextIO | None, trackers: str | None
) -> None:
    """Build from the base checkpoint, resume if there is something to resume, and train to the end."""
    plan = opened.plan
    torch.manual_seed(plan.seed)
    parts = start_from(base, plan, rows, world)
    parts.home = Home(
        opened.directory, (base.path / TOKENIZER).read_bytes(), rows.fingerprint, base.tokenizer.fingerprint
    )
    held_out = [render(conversation, base.tokenizer) for conversation in chats.val]
    if any(any(one.mask[: plan.seq_len + 1]) for one in held_out):  # else every answer lies past the cut
        parts.evaluate = lambda: validate(base, held_out, parts)
    if opened.resume is not None:
        restore(parts, opened.resume)
    with watch(parts.stop):
        log = open_tuning_log(opened, base, rows.facts, parts, screen)
        if world.rank == 0:
            log.trackers = open_trackers(trackers, opened.directory, plan.request, parts.step)
        try:
            carry_out(plan, parts, log)
        finally:
            log.close()


def start_from(base: Base, plan: TrainPlan, rows: Dialogs, world: World) -> Parts:
    """The base model's weights, and its optimizer's moments: a warm start is slightly better (10.1)."""
    attention = attention_of(plan, world)
    model = build(plan.model, plan.seed, world.device, compute_dtype(plan.dtype), attend=attention.make())
    model.recompute = plan.recompute
    load_weights(model, base.state, base.path)
    optimizer = Optimizer(model, roles(model), plan.optim, world)
    with Tensors(protocol.optimizer_files(base.path, protocol.verify(base.path, only=()))) as tensors:
        optimizer.load_state_dict(dict(tensors))
    return Parts(model, optimizer, rows, world, stage="sft", attention=attention)


def validate(base: Base, rendered: Sequence[Rendered], parts: Parts) -> BitsPerByte:
    """Bits per byte of what the assistant says in the held-out conversations."""
    stream = rows_of(base, rendered, parts.world, base.plan.rows_per_step, None, None)
    lengths = torch.tensor(base.tokenizer.byte_lengths())
    return bits_per_byte(parts.model, Watched(stream, parts.stop, parts.world), lengths, parts.world)


def open_tuning_log(opened: Opened, base: Base, facts: DialogFacts, parts: Parts, screen: TextIO | None) -> RunLog:
    if parts.world.rank != 0:
        return RunLog(None)
    log = open_log(opened.directory, parts.step if opened.resume else None, screen=screen)
    for note in opened.notes:
        log.say(f"warning: {note}")
    plan = opened.plan
    if opened.resume is None:
        log.say(summary(plan, base, facts))
        log.record("run", **header(plan, parts, (parts.peak_flops, "unknown")))
    else:
        assert parts.home is not None
        parts.home.known.add(opened.resume)
        renew_log(log, parts, opened.resume)
        write_best(parts)
        log.say(f"{opened.directory}: goes on at step {parts.step:,} of {plan.steps:,}")
    return log


def summary(plan: TrainPlan, base: Base, facts: DialogFacts) -> str:
    """What is tuned on what, for how long."""
    assert plan.data is not None
    factor = plan.optim.muon.lr / base.plan.optim.muon.lr
    lines = [
        f"sft: {base.path} ({base.sha256[:12]}) on {plan.data.name}",
        f"     {facts.conversations:,} conversations of {facts.tokens:,} tokens, {facts.trained_tokens:,} of them"
        f" learned; {plan.data.val_documents:,} conversations held out",
        f"     {plan.steps:,} steps of {plan.tokens_per_step:,} tokens, rates x {factor:.2g}",
    ]
    if facts.cut:
        lines.append(
            f"     {facts.cut:,} conversations longer than a row of {plan.seq_len:,}: {facts.cut_tokens:,} tokens cut"
        )
    if facts.silent:
        lines.append(f"     {facts.silent:,} conversations with nothing left to learn")
    return "\n".join(lines)


def score_smalltalk(run: Path, talk: Smalltalk, device: str = "cpu") -> dict[str, dict[str, dict[str, int]]]:
    """Right answers of the run's model to facts that were trained and held out, also left in `evals/facts.json`."""
    loaded = load_model(run, device)
    engine = Engine(loaded.model)
    found = {}
    for name, facts in (("trained", talk.trained), ("held_out", talk.held_out)):
        asked = [fact for kind in ("sum", "function") for fact in [f for f in facts if f.kind == kind][:MOST_ASKED]]
        scores = score(engine, loaded.tokenizer, asked)
        found[name] = {one.kind: {"right": one.right, "n": one.asked} for one in scores}
    folder = run / "evals"
    folder.mkdir(exist_ok=True)
    durable.write_json(folder / "facts.json", {"v": 1, "step": loaded.meta.step, **found})
    return found


def describe(scores: Mapping[str, Mapping[str, Mapping[str, int]]]) -> str:
    """`answered right: sum 38 of 40 (held out 3 of 15) · function …`"""
    kinds = [
        f"{kind} {trained['right']} of {trained['n']} (held out {held['right']} of {held['n']})"
        for kind, trained in scores["trained"].items()
        if (held := scores["held_out"].get(kind, {"right": 0, "n": 0})) is not None
    ]
    return "answered right: " + " · ".join(kinds)


def file_chats(path: Path, left_out: Callable[[str], None] = lambda _: None) -> Chats:
    """The conversations of a .jsonl file or of a folder of such files, a twentieth held out."""
    found = read_folder(path, left_out) if path.is_dir() else read_chats(path)
    return split_chats(path.resolve().name.split(".")[0], list(found))


def smalltalk_chats(count: int, identity: Path | None = None, seed: int | None = None) -> tuple[Smalltalk, Chats]:
    """`count` chats made on the spot, and the facts held out of them as conversations to validate on."""
    talk = smalltalk(DEFAULT_SEED if seed is None else seed, Identity.load(identity) if identity else None)
    train = [Conversation.from_json(chat) for chat in talk.chats(count)]
    return talk, Chats("smalltalk", train, [Conversation.of(fact.asks[0], fact.answer) for fact in talk.held_out])
