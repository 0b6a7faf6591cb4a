"""From a request to a finished run: `picollm train`, `torchrun -m picollm.train` and quickstart all come in here."""

import os
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import torch

from picollm.errors import OutOfMemoryError, PicoError, StoppedError
from picollm.layout import Layout
from picollm.loader.stream import Stream
from picollm.model.counts import flops_per_token
from picollm.plan.measured import Measured
from picollm.plan.render import render
from picollm.plan.request import TrainRequest
from picollm.plan.resolve import resolve
from picollm.plan.trainplan import TrainPlan
from picollm.runtime import device, durable, failpoint, rng
from picollm.runtime.dist import World
from picollm.runtime.pace import duration
from picollm.runtime.precision import compute_dtype
from picollm.runtime.runlog import RunLog, open_log
from picollm.runtime.signals import Stop, watch
from picollm.runtime.together import on_rank_zero
from picollm.runtime.trackers import names, open_trackers
from picollm.tok.tokenizer import Tokenizer
from picollm.train.data import facts, tokenizer_bytes
from picollm.train.due import named, renew_log, thaw_garbage, write_best
from picollm.train.exhausted import said_as_error
from picollm.train.kernels import warm_up
from picollm.train.measure import build_parts, compile_obstacle, flops_rate, measure
from picollm.train.opening import EXIT, Opened, begin, open_run
from picollm.train.pretrain import diverged, pretrain
from picollm.train.state import Home, Parts, restore, versions
from picollm.train.validate import validator

TORCHRUN = "TORCHELASTIC_RUN_ID"
WEEK = 7 * 86_400


def run_training(
    request: TrainRequest,
    *,
    layout: Layout | None = None,
    screen: TextIO | None = sys.stderr,
    quiet: frozenset[str] = frozenset(),
) -> Path:
    """Start the run that `request` means, or go on with it; returns its folder once it is finished or capped.

    Every rank of a torchrun world calls this; alone it is a world of one. `screen` gets progress, from rank 0;
    `quiet` are codes of warnings that are not said. With --auto-batch a step that does not fit in memory halves
    the rows and goes on.
    Raises StoppedError (exit 130, 143, 75) after a signal, with everything saved; DivergedError, OutOfMemoryError,
    and what opening a run raises (2 usage, 3 checks, 4 missing). Once the run's folder exists, `exit.json` says how
    it ended.
    """
    layout = layout or Layout.from_env()
    names(request.log)  # before anything is opened
    while True:
        try:
            return run_once(request, layout, screen, quiet)
        except OutOfMemoryError as error:
            if not (request.auto_batch and error.smaller) or "RANK" in os.environ:
                raise
            request = replace(request, **error.smaller)
            said = f"{error.message}: going on with --device-batch-size {request.device_batch_size} (same result)"
        if screen:
            print(said, file=screen)


def run_once(request: TrainRequest, layout: Layout, screen: TextIO | None, quiet: frozenset[str]) -> Path:
    """`run_training` with the rows that were asked for."""
    with World.open(device.choose(request.device)) as world, ExitStack() as hold:
        screen = screen if world.rank == 0 else None
        device.settle(world.device)
        request = replace(request, nproc=world.size)
        peak = peak_flops(request, world)
        opened = open_together(request, layout, world, peak, hold)
        if opened.finished:
            if screen:
                print(f"{opened.directory}: finished, {opened.plan.steps:,} steps; nothing to do", file=screen)
            return opened.directory
        try:
            on_rank_zero(world, lambda: begin(opened, versions()))
            train_opened(opened, world, peak, screen, quiet)
        except PicoError as error:
            leave(opened.directory, world, type(error).__name__, error.exit_code, error.message)
            raise
        return opened.directory


def measure_here(plan: TrainPlan) -> Measured:
    """Eight real steps of `plan` on this machine; every rank of its world calls this. Nothing is kept.

    Raises OutOfMemoryError where they do not fit, UsageError where the plan is for another device.
    """
    with World.open(device.choose(plan.device)) as world:
        device.settle(world.device)
        rng.seed_all(plan.seed)
        peak, _ = peak_flops(TrainRequest.from_json(plan.request), world)
        with said_as_error(plan):
            return measure(plan, world, peak)


def peak_flops(request: TrainRequest, world: World) -> tuple[float, str]:
    """FLOP/s that count as 100 % on one device, and where the figure comes from. All ranks measure at once."""
    machine = device.machine(world.device.type, request.peak_flops)
    if machine.peak_flops:
        return machine.peak_flops, machine.peak_source
    own = device.measured_peak(world.device, compute_dtype(request.dtype or "fp32"))
    total = world.sum_(torch.tensor(own, dtype=torch.float64, device=world.device))
    return float(total) / world.size, "measured"


def open_together(
    request: TrainRequest, layout: Layout, world: World, peak: tuple[float, str], hold: ExitStack
) -> Opened:
    """The run as rank 0 finds it, on every rank. A horizon of time is measured first, by all."""
    machine = device.machine(world.device.type).with_peak(*shared_peak(peak, world))
    runs = Path(request.runs_dir) if request.runs_dir else layout.runs

    def found() -> dict[str, Any]:
        return open_run(request, runs, machine, lambda asked: facts(asked, layout), hold).to_json()

    opened = Opened.from_json(on_rank_zero(world, found))
    if not opened.measure:
        return opened
    plan = opened.plan
    minutes = request.max_minutes or 60 * (request.budget or 0) / (plan.estimate.price * world.size)
    speed = flops_rate(plan, world, minutes)

    def settled() -> dict[str, Any]:
        data = facts(request, layout)
        return resolve(request, machine, data, speed=speed, depth=plan.model.depth).require().to_json()

    return replace(opened, plan=TrainPlan.from_json(on_rank_zero(world, settled)), measure=False)


def shared_peak(peak: tuple[float, str], world: World) -> tuple[float, str]:
    """What `Machine` wants: per device, where the processes on a CPU are one device together."""
    flops, source = peak
    return (flops * world.size if world.device.type == "cpu" else flops), source


def train_opened(
    opened: Opened, world: World, peak: tuple[float, str], screen: TextIO | None, quiet: frozenset[str]
) -> None:
    """Build, resume if there is something to resume, train, and say how it ended."""
    plan = opened.plan
    assert plan.data is not None
    rng.seed_all(plan.seed)
    stop = Stop(os.getppid() if TORCHRUN in os.environ else None)
    with watch(stop):
        with said_as_error(plan):
            parts = build_parts(plan, world)
        parts.stop = stop
        failpoint.reach("train.opening")
        try:
            fill_parts(opened, parts, peak)
            log = open_together_log(opened, parts, peak, screen, quiet)
            try:
                warm_up(plan, parts, log)
                carry_out(plan, parts, log)
            finally:
                log.close()
        finally:
            parts.stream.close()


def fill_parts(opened: Opened, parts: Parts, peak: tuple[float, str]) -> None:
    """What a run has beside its model: a home, rows to validate on, and where it stood before."""
    plan = opened.plan
    assert plan.data is not None
    parts.peak_flops = peak[0]
    parts.home = Home(opened.directory, tokenizer_bytes(plan.data), plan.data.fingerprint, plan.data.tokenizer_sha256)
    lengths = torch.tensor(Tokenizer.load(Path(plan.data.path)).byte_lengths())
    parts.evaluate = validator(plan, parts.model, lengths, parts.world, parts.stop)
    if opened.resume is not None:
        restore(parts, opened.resume)


def open_together_log(
    opened: Opened, parts: Parts, peak: tuple[float, str], screen: TextIO | None, quiet: frozenset[str]
) -> RunLog:
    """Rank 0's log with its header, cut to where the run stands; elsewhere a log that keeps nothing."""
    if parts.world.rank != 0:
        return RunLog(None)
    log = open_log(opened.directory, parts.step if opened.resume else None, screen=screen, quiet=quiet)
    log.trackers = open_trackers(opened.plan.request.get("log"), opened.directory, opened.plan.request, parts.step)
    for note in opened.notes:
        log.say(f"warning: {note}")
    plan = opened.plan
    if opened.resume is None:
        heard = tuple(warning for warning in plan.warnings if warning.code not in quiet)
        log.say(render(replace(plan, warnings=heard)).rstrip("\n"))
        log.record("run", **header(plan, parts, peak))
    else:
        assert parts.home is not None
        parts.home.known.add(opened.resume)
        renew_log(log, parts, opened.resume)
        write_best(parts)
        log.say(f"{opened.directory}: goes on at step {parts.step:,} of {plan.steps:,}")
    for remark in remarks(plan, parts):
        log.say(remark)
    if plan.compile and (obstacle := compile_obstacle(parts.world.device)):
        log.warn("W304", f"torch.compile unavailable ({obstacle}): running eager")
    return log


def header(plan: TrainPlan, parts: Parts, peak: tuple[float, str]) -> dict[str, Any]:
    """The `run` line: what the numbers below it depend on."""
    assert plan.data is not None
    return {
        "plan": plan.to_json(),
        "versions": versions(),
        "device": plan.machine,
        "ranks": parts.world.size,
        "threads": torch.get_num_threads(),
        "attention": parts.attention.to_json() if parts.attention else None,
        "peak_flops": peak[0],
        "peak_source": peak[1],
        "shards": plan.data.fingerprint,
        "tokenizer": plan.data.tokenizer_sha256,
        "flops_per_token": flops_per_token(plan.model),
    }


def remarks(plan: TrainPlan, parts: Parts) -> list[str]:
    """What one should know before leaving a run alone."""
    said = [f"effective batch: {plan.device_batch} rows x {plan.seq_len} tokens x {parts.world.size} ranks x "
            f"{plan.micro_steps} micro-steps = {plan.tokens_per_step:,} tokens/step"]  # fmt: skip
    if isinstance(parts.stream, Stream):
        said += [f"warning: {note}" for note in parts.stream.notes]
    if parts.attention:
        said += [f"attention, {line}" for line in parts.attention.lines()]
    if plan.estimate.seconds > WEEK:
        said.append(f"warning: this will take about {duration(plan.estimate.seconds)} here")
    if parts.world.device.type == "cuda" and (seen := torch.cuda.device_count()) > parts.world.size:
        said.append(f"{seen} GPUs seen, {parts.world.size} used: --nproc-per-node {seen}")
    return said


def carry_out(plan: TrainPlan, parts: Parts, log: RunLog) -> None:
    """Train to the end of the plan; SFT uses this too. Writes `exit.json` for every end but an error's.

    The caller watches for signals. Raises StoppedError after one, and DivergedError at the end of the guard's ladder,
    both saved.
    """
    try:
        with said_as_error(plan):
            pretrain(plan, parts, log)
    finally:
        thaw_garbage()
    assert parts.home is not None
    reason = parts.stop.reason if parts.leaving == "signal" else parts.leaving or "finished"
    end = ending(plan, parts)
    code = end.exit_code if end else 0
    log.record("stop", step=parts.step, reason=reason, code=code)
    if end is None:
        log.say(f"{reason}: step {parts.step:,} of {plan.steps:,}, {best_line(parts)}; {parts.home.directory}")
        leave(parts.home.directory, parts.world, reason, code, None, parts)
        return
    leave(parts.home.directory, parts.world, reason, code, end.message, parts)
    raise end


def ending(plan: TrainPlan, parts: Parts) -> PicoError | None:
    """The error that the end of the loop means, or None where it is no error."""
    assert parts.home is not None
    if parts.leaving == "diverged":
        return diverged(plan, parts)
    if parts.leaving == "signal":
        return StoppedError(
            f"{parts.stop.reason}: saved step {parts.saved:,} of {plan.steps:,}",
            exit_code=parts.stop.code,
            hint=f"resume with: picollm train --resume {parts.home.directory}"
            if parts.stage == "base"
            else "the same command goes on from there",
        )
    return None


def best_line(parts: Parts) -> str:
    return (
        f"best {parts.best['bpb']:.4f} bits per byte at step {parts.best['step']:,}" if parts.best else "no validation"
    )


def leave(
    directory: Path, world: World, reason: str, code: int, message: str | None, parts: Parts | None = None
) -> None:
    """`exit.json`: how the run ended, for a script that decides whether to start it again. Rank 0 writes, once."""
    if world.rank != 0 or (message is not None and parts is None and (directory / EXIT).exists()):
        return
    value: dict[str, Any] = {
        "v": 1,
        "reason": reason,
        "code": code,
        "message": message,
        "step": None,
        "checkpoint": None,
    }
    if parts is not None and parts.saved >= 0:
        assert parts.home is not None
        checkpoint = parts.home.checkpoints / f"step-{parts.saved:010d}"
        value |= {"step": parts.step, "checkpoint": named(checkpoint)}
    durable.write_json(directory / EXIT, value)
