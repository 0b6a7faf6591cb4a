"""`picollm quickstart`: text → tokenizer → shards → model → chat, offline, inside a time box."""

import contextlib
import itertools
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

import click

from picollm.cli.live import LiveLine
from picollm.errors import CorpusTooSmallError, MissingError, StoppedError
from picollm.layout import Layout

if TYPE_CHECKING:
    from picollm.corpus.source import Source
    from picollm.plan.request import TrainRequest
    from picollm.shards.manifest import ShardSet
    from picollm.tok.tokenizer import Tokenizer

NAME = "quickstart"
STAGES = ("tok", "shard", "plan", "train", "sft", "done")
VAL_PPM = 50_000  # as of stdlib; a folder of a hundred files would keep none at the local default
BASE_SHARE, SFT_SHARE = 0.70, 0.20  # of the minutes; the rest is for all other stages
MOST_EPOCHS = 1000.0  # a small folder is read again and again, and the report says so
CHAT_TOKENS = 34  # of an average chat of smalltalk, with 4,096 ids
CHAT_SPEED = 0.6  # tokens/s of fine-tuning over those of training: 0.75 measured at 512 tokens a step, less validation
FEWEST_CHATS, MOST_CHATS = 200, 20_000
WIDE_VOCAB = 65_536
LONGEST_REPLY = 64
QUESTIONS = ("who are you?", "what does str.split do?")


@click.command("quickstart")
@click.option("--minutes", type=click.FloatRange(min=0.1), default=4.0, show_default=True, help="For everything.")
@click.option(
    "--dataset-name", "--dataset", default="stdlib", show_default=True, help="Your own folder or file of text."
)
@click.option("--seed", type=int, default=1337, show_default=True)
def command(minutes: float, dataset_name: str, seed: int) -> None:
    """The whole path in a few minutes, offline. The same command goes on where it was stopped."""
    from picollm.cli.shard import stop_politely

    try:
        with stop_politely():
            walk(Walk(minutes, dataset_name, seed, Layout.from_env()))
    except StoppedError as stopped:
        again = "the same command again goes on from here"
        raise StoppedError(stopped.message, exit_code=stopped.exit_code, hint=again) from None


@dataclass
class Walk:
    """What was asked, and the clock: every second since the start belongs to one stage."""

    minutes: float
    dataset_name: str
    seed: int
    layout: Layout
    spent: dict[str, float] = field(default_factory=dict)
    last: float = field(default_factory=time.monotonic)

    def done(self, text: str) -> None:
        """The line of the next stage; it ends now."""
        now = time.monotonic()
        stage = STAGES[len(self.spent)]
        self.spent[stage] = now - self.last
        self.last = now
        click.echo(f"[{len(self.spent)}/{len(STAGES)}] {stage:<7} {text}   {self.spent[stage]:.1f} s")

    @property
    def label(self) -> str:
        return f"[{len(self.spent) + 1}/{len(STAGES)}] {STAGES[len(self.spent)]:<7} "


def walk(asked: Walk) -> None:
    from picollm.runtime.machine import usable_cores

    click.echo(
        f"quickstart: {asked.dataset_name} → tokenizer → shards → model → chat"
        f" · {usable_cores()} cores · {asked.minutes:g} minutes"
    )
    source, tokenizer, folder = tokenize(asked)
    shards = shard(asked, source, folder)
    request = plan(asked, shards)
    base = train(asked, request, tokenizer)
    tuned = tune(asked, base)
    finish(asked, base, tuned)


def names() -> Iterator[str]:
    """quickstart, quickstart-2, quickstart-3, …"""
    return itertools.chain([NAME], (f"{NAME}-{number}" for number in itertools.count(2)))


def tokenize(asked: Walk) -> "tuple[Source, Tokenizer, Path]":
    """Stage 1. A folder that holds this very tokenizer is used again; one that holds another is left alone."""
    from picollm.cli.tok import progress_line
    from picollm.corpus.source import open_source
    from picollm.plan.presets import PRESETS
    from picollm.runtime.machine import usable_cores
    from picollm.tok.tokenizer import FILE, MANIFEST, Tokenizer
    from picollm.tok.train import request_of, train_tokenizer

    source = replace(open_source(asked.dataset_name), val_ppm=VAL_PPM).hashed(usable_cores())
    vocab_size = int(str(PRESETS[NAME]["vocab_size"]))
    wanted = request_of(source, vocab_size, "picollm", "rustbpe", None, None)
    for name in names():
        folder = asked.layout.tokenizers / name
        if not (folder / FILE).exists():
            break
        with contextlib.suppress(OSError, ValueError):
            made = json.loads((folder / MANIFEST).read_bytes())
            if all(made.get(key) == value for key, value in json.loads(json.dumps(wanted)).items()):
                found = Tokenizer.load(folder)
                asked.done(f"{found.vocab_size:,} tokens, already in {folder}")
                return source, found, folder
    line = LiveLine()
    try:
        made = train_tokenizer(source, vocab_size, progress=progress_line(line, vocab_size))
    except CorpusTooSmallError as error:
        raise CorpusTooSmallError(error.message, hint="more text; quickstart wants about 1 MB") from None
    finally:
        line.close()
    made.save(folder)
    counts = made.made["counts"]
    asked.done(
        f"{made.vocab_size:,} tokens from {counts['bytes'] / 1e6:,.1f} MB of {source.name}, {len(source.files):,} files"
    )
    return source, made, folder


def shard(asked: Walk, source: "Source", tokenizer: Path) -> "ShardSet":
    """Stage 2. The set bears the tokenizer's name, since it is made from the same files."""
    from picollm.cli.shard import live_progress
    from picollm.plan.render import short
    from picollm.shards.build import build

    with live_progress() as progress:
        shards = build(source, tokenizer, asked.layout.shards / tokenizer.name, progress=progress)
    if shards.val_tokens == 0:
        raise MissingError(
            f"{asked.dataset_name}: no document of {shards.train_documents:,} fell to validation",
            hint="more and smaller files, or: picollm shard SOURCE --val-ppm 200000",
        )
    asked.done(
        f"{short(shards.train_tokens)} training tokens, {short(shards.val_tokens)} for validation by document hash, "
        f"{shards.train_bytes / max(1, shards.train_tokens):.2f} bytes/token"
    )
    return shards


def plan(asked: Walk, shards: "ShardSet") -> "TrainRequest":
    """Stage 3. What will be trained, and under which name."""
    from picollm.model.counts import count
    from picollm.plan.facts import DataFacts
    from picollm.plan.presets import PRESETS
    from picollm.plan.render import short
    from picollm.plan.request import combine
    from picollm.plan.resolve import resolve
    from picollm.runtime.machine import Machine

    said = {
        "max_minutes": BASE_SHARE * asked.minutes, "seed": asked.seed, "max_epochs": MOST_EPOCHS, "device": "cpu",
        "shards": str(shards.path), "runs_dir": str(asked.layout.runs),
    }  # fmt: skip
    start = dict(PRESETS[NAME])
    request = combine(("flag", said, {}), ("preset", start, dict.fromkeys(start, NAME)))
    request = replace(request, name=run_name(asked.layout.runs, request, shards.fingerprint))
    model = resolve(request, Machine.cpu(1e10), DataFacts.of(shards)).model
    counts = count(model)
    wide = count(replace(model, vocab_size=WIDE_VOCAB, padded_vocab=WIDE_VOCAB))
    asked.done(
        f"{model.depth} layers x {model.width}, {model.heads} heads x {model.head_dim}, seq {model.seq_len} · "
        f"{short(counts.total)} parameters, {counts.embedding_share:.0%} in embeddings "
        f"(at {WIDE_VOCAB:,} tokens: {wide.embedding_share:.0%})"
    )
    return request


def run_name(runs: Path, request: "TrainRequest", fingerprint: str) -> str:
    """The first name that is free, or holds the unfinished run of the same request on the same data."""
    from picollm.plan.request import TrainRequest
    from picollm.train.opening import read_plan

    for name in names():
        saved = read_plan(runs / name)
        if saved is None:
            return name
        same = TrainRequest.from_json(saved.request).identity() == request.identity()
        fresh = not (runs / f"{name}-sft" / "report.md").exists()
        if same and fresh and saved.data is not None and saved.data.fingerprint == fingerprint:
            return name
    raise AssertionError("names never end")


class Screen:
    """What a trainer would show, cut down to its progress on one line; its warnings are let through."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.line = LiveLine()

    def isatty(self) -> bool:
        return self.line.terminal

    def write(self, text: str) -> int:
        words = text.removeprefix("\r\x1b[K")
        if re.match(r"step [\d,]+/", words):
            self.line.show(self.label + words.strip())
        elif words.startswith("warning:"):
            self.line.close()
            click.echo(words.rstrip(), err=True)
        return len(text)

    def flush(self) -> None: ...


@contextlib.contextmanager
def screen(asked: Walk) -> Iterator[TextIO]:
    shown = Screen(asked.label)
    try:
        yield cast(TextIO, shown)
    finally:
        shown.line.close()


def train(asked: Walk, request: "TrainRequest", tokenizer: "Tokenizer") -> Path:
    """Stage 4, with the figures of the simple predictors."""
    from picollm.plan.render import short
    from picollm.report.picture import sparkline
    from picollm.report.run import Run
    from picollm.train.run import run_training

    with screen(asked) as shown:
        folder = run_training(request, layout=asked.layout, screen=shown)
    run = Run.read(folder)
    loss = [value for _, value in run.curve("loss")]
    best = run.best
    asked.done(
        f"{run.steps_done:,} steps · loss {loss[0]:.2f} → {loss[-1]:.2f} · val bpb {best[1] if best else 0:.3f} · "
        f"{run.median('tok_s') or 0:,.0f} tok/s · {short(run.tokens_done)} tokens   {sparkline(loss)}"
    )
    return folder


def tune(asked: Walk, base: Path) -> Path:
    """Stage 5. How many chats follows from the speed in the base run's log: the same number on every resume."""
    from picollm.plan.sft import SftRequest
    from picollm.report.picture import sparkline
    from picollm.report.run import Run
    from picollm.train.sft import SMALLTALK_RATE_SCALE, run_sft, score_smalltalk, smalltalk_chats

    rate = (Run.read(base).median("tok_s") or 1.0) * CHAT_SPEED
    wanted = int(rate * 60 * SFT_SHARE * asked.minutes / CHAT_TOKENS)
    chats = max(FEWEST_CHATS, min(MOST_CHATS, round(wanted, -2)))
    talk, made = smalltalk_chats(chats, seed=asked.seed)
    request = SftRequest(name=f"{base.name}-sft", seed=asked.seed, rate_scale=SMALLTALK_RATE_SCALE)
    with screen(asked) as shown:
        folder = run_sft(base, made, request, asked.layout.runs, device="cpu", screen=shown)
    loss = [value for _, value in Run.read(folder).curve("loss")]
    asked.done(f"{chats:,} short chats · loss {loss[0]:.2f} → {loss[-1]:.2f}   {sparkline(loss)}")
    score_smalltalk(folder, talk)
    return folder


def finish(asked: Walk, base: Path, tuned: Path) -> None:
    """Stage 6: replies, figures, both reports, and what each stage took."""
    from picollm.cli.report import add_baselines
    from picollm.plan.trainplan import TrainPlan
    from picollm.report.page import clock, honesty, write_report
    from picollm.report.run import Run

    figures = add_baselines(base)
    said = replies(tuned)
    for folder in (base, tuned):
        write_report(Run.read(folder))
    run = Run.read(base)
    asked.done(f"{base}, {tuned} · picture: loss.svg · report: report.md")
    for prompt, reply in said:
        click.echo(f"       you> {prompt:<25} {reply}")
    best = run.best
    assert best is not None
    others = " · ".join(f"{name} {value.bpb:.3f}" for name, value in figures.items())
    click.echo(f" val:   {best[1]:.3f} bits per byte; without a model: {others} (lower is better)")
    click.echo(f" note:  {honesty(run, TrainPlan.from_json(run.plan['plan']))}")
    times = " + ".join(f"{stage} {seconds:.1f}" for stage, seconds in asked.spent.items())
    click.echo(f" time:  {times} = {sum(asked.spent.values()):.1f} s of {clock(60 * asked.minutes)}")
    click.echo(" next:  picollm chat · picollm report · picollm explain loss · picollm plan --preset laptop")


def replies(tuned: Path) -> list[tuple[str, str]]:
    """The likeliest answers to two questions, also left in evals/replies.json."""
    from picollm.chat.repl import open_talk, printable
    from picollm.infer.sample import GREEDY
    from picollm.runtime import durable

    talk, _ = open_talk(tuned, GREEDY, max_tokens=LONGEST_REPLY)
    said = []
    for prompt in QUESTIONS:
        talk.forget()
        said.append((prompt, " ".join(printable("".join(talk.reply(prompt))).split())))
    kept = [{"prompt": prompt, "reply": reply} for prompt, reply in said]
    durable.write_json(tuned / "evals" / "replies.json", {"v": 1, "replies": kept})
    return said
