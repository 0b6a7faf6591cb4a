"""`picollm train`: train a base model here, or on N processes of this machine; as `torchrun -m picollm.train` does."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType

import click

from picollm.cli.colour import paint
from picollm.cli.knobs import LayeredCommand, train_options
from picollm.cli.plan import QUIET, STRICT, planned, quiet_codes, quieted, require_none
from picollm.errors import PicoError, StoppedError
from picollm.plan.knobs import BY_NAME
from picollm.plan.render import render
from picollm.plan.request import RESUME_WORDS, TrainRequest

VERDICT = "PICOLLM_VERDICT"  # a file to which rank 0 writes its exit code; torchrun's own is 0 or 1
OUT_OF_MEMORY = 5  # exit code
DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/kfd"))
SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"  # by default SIGUSR1 kills the launcher and orphans the workers


@click.command("train", cls=LayeredCommand)
@click.option("--dry-run", is_flag=True, help="print the plan, list what is missing, train nothing")
@STRICT
@QUIET
@click.option("--measure-plan", type=click.Path(path_type=Path), hidden=True)  # plan --measure on several processes
@train_options
def command(
    request: TrainRequest, dry_run: bool, strict: bool, quiet_warnings: tuple[str, ...], measure_plan: Path | None
) -> None:
    """Train a base model. The same command again goes on with the same run; when it is finished, it says so."""
    quiet = quiet_codes(quiet_warnings)
    if dry_run or strict:
        plan = quieted(planned(request), quiet)
        if dry_run:
            click.echo(paint(render(plan)), nl=False)
        if strict:
            require_none(plan.warnings)
        if dry_run:
            return
    if measure_plan is None:
        refuse_early(request)
    if (request.nproc or 1) > 1 and "RANK" not in os.environ:
        sys.exit(launch(request.nproc or 1, without_ranks(sys.argv[sys.argv.index("train") + 1 :])))

    def work() -> None:
        from picollm.cli.measure import measure_into
        from picollm.train.run import run_training

        if measure_plan is not None:
            measure_into(measure_plan)
        else:
            run_training(request if "RANK" not in os.environ else replace(request, nproc=None), quiet=quiet)

    if "RANK" in os.environ:
        as_a_rank(work)
    else:
        work()


def refuse_early(request: TrainRequest) -> None:
    """Say what no torch is needed for: loading it takes seconds, and a plan that cannot run is refused all the same.

    A run that is gone on with by name brings its own options; a GPU that only torch can see may be the larger one.
    """
    if request.resume not in RESUME_WORDS:
        return
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    plan = planned(request if ranks == 1 else replace(request, nproc=ranks))
    certain = plan.device == "cuda" or request.device == "cpu" or not any(map(Path.exists, DRIVERS))
    for problem in plan.problems:
        if problem.exit_code != OUT_OF_MEMORY or (certain and sys.platform == "linux"):
            raise problem.error()


def as_a_rank(work: Callable[[], None]) -> None:
    """Do it as one of torchrun's processes: rank 0 tells the process that started torchrun how it ended."""
    try:
        work()
    except StoppedError as stopped:  # torchrun would call any other code a failure and start the workers again
        verdict(stopped.exit_code)
        if os.environ["RANK"] == "0":
            click.echo(f"{stopped.message}\n{stopped.hint}", err=True)
    except PicoError as error:
        verdict(error.exit_code)
        raise
    else:
        verdict(0)


def verdict(code: int) -> None:
    """Tell the process that started torchrun what the run came to."""
    path = os.environ.get(VERDICT)
    if path and os.environ["RANK"] == "0":
        Path(path).write_text(str(code))


def launch(ranks: int, options: list[str]) -> int:
    """Run `picollm train` with these options on `ranks` processes; the exit code of the run, as `exit.json` has it."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "code"
        module = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}",
                  f"--signals-to-handle={SIGNALS}", "-m", "picollm.train"]  # fmt: skip
        words = [sys.executable, *module, *options]
        # A session of its own: a Ctrl-C in the terminal would reach torchrun twice, once from us, and the second kills.
        child = subprocess.Popen(words, env={**os.environ, VERDICT: str(told)}, start_new_session=True)
        with forwarding(child):
            status = child.wait()
        return int(told.read_text()) if told.exists() else status


def without_ranks(arguments: list[str]) -> list[str]:
    """The options but for the number of processes, which torchrun's own parser would stumble over.

    >>> without_ranks(["--depth", "4", "--nproc", "2", "--nproc-per-node=2", "--name", "a"])
    ['--depth', '4', '--name', 'a']
    """
    flags = BY_NAME["nproc"].flags
    kept: list[str] = []
    skip = False
    for word in arguments:
        if not skip and word.partition("=")[0] not in flags:
            kept.append(word)
        skip = not skip and word in flags
    return kept


@contextlib.contextmanager
def forwarding(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Hand SIGINT, SIGTERM and SIGUSR1 on to `child`, which saves and leaves."""

    def hand_on(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(number)

    former = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
