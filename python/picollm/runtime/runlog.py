"""What a run leaves to read: `metrics.jsonl` (one object per line), `train.log`, and a progress line on the screen.

Only rank 0 writes. A full disk or a closed terminal is said once and never stops the training.
"""

import contextlib
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from picollm.runtime import durable
from picollm.runtime.trackers import Tracker, numbers_of

SCHEMA = 1
METRICS = "metrics.jsonl"
TEXT = "train.log"
# Fields that hold clock readings, or depend on them. All other fields of a resumed run equal an unbroken one's.
TIME_FIELDS = frozenset({"t", "dt_ms", "data_wait_ms", "opt_ms", "tok_s", "mfu_bf16", "mem_peak", "flags", "seconds"})


class RunLog:
    """The log of one run in `directory`; with None (the other ranks, throw-away runs) nothing is kept."""

    def __init__(
        self,
        directory: Path | None,
        *,
        screen: TextIO | None = None,
        every: int = 10,
        quiet: frozenset[str] = frozenset(),
    ) -> None:
        """`screen`: where progress goes, or None. `every`: steps between progress lines without a terminal.

        `quiet`: codes of warnings that are not said; those about the run itself are still recorded.
        """
        self.quiet = quiet
        self.directory = directory
        self.screen = screen
        self.every = every
        self.files: dict[str, int] = {}
        self.complained = False
        self.on_line = False  # the cursor stands behind a progress line
        self.trackers: dict[str, Tracker] = {}
        self.start = time.monotonic()
        if directory is not None:
            self.files = {name: open_for_lines(directory / name) for name in (METRICS, TEXT)}

    def record(self, kind: str, **fields: Any) -> None:
        """Append one line to `metrics.jsonl`. A float that is not finite becomes null; NaN is not JSON."""
        clock = round(time.monotonic() - self.start, 3)
        plain = {key: finite_or_none(value) for key, value in fields.items()}
        line = json.dumps({"v": SCHEMA, "t": clock, "kind": kind} | plain, ensure_ascii=False, allow_nan=False)
        self.append(METRICS, line + "\n")
        if self.trackers and (numbers := numbers_of(kind, plain)):
            for name in list(self.trackers):
                self.tell(name, int(fields.get("step", 0)), numbers)

    def tell(self, name: str, step: int, numbers: dict[str, float]) -> None:
        """Hand numbers to one tracker. One that fails, however it does, is left out from then on."""
        try:
            self.trackers[name].numbers(step, numbers)
        except Exception as error:  # noqa: BLE001 - a dashboard must not stop a training
            del self.trackers[name]
            self.say(f"warning: --log {name} failed ({type(error).__name__}: {error}); training goes on without it")

    def say(self, text: str) -> None:
        """One line to the screen and to `train.log`."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        self.append(TEXT, "".join(f"{stamp} {line}\n" for line in text.splitlines()))
        self.show(("\r\x1b[K" if self.on_line else "") + text + "\n")
        self.on_line = False

    def warn(self, code: str, text: str) -> None:
        """A coded warning, unless it was asked to be quiet."""
        if code not in self.quiet:
            self.say(f"{code} {text}")

    def progress(self, step: int, text: str, *, last: bool = False) -> None:
        """The line of this step: rewritten in place on a terminal, else printed every `every` steps."""
        due = step % self.every == 0 or step == 1 or last
        if due:
            self.append(TEXT, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        if self.terminal:
            self.show("\r\x1b[K" + text[: columns() - 1] + ("\n" if last else ""))
            self.on_line = not last
        elif due:
            self.show(text + "\n")

    @property
    def terminal(self) -> bool:
        try:
            return self.screen is not None and self.screen.isatty() and os.environ.get("TERM") != "dumb"
        except ValueError:  # closed
            return False

    def show(self, text: str) -> None:
        if self.screen is None:
            return
        try:
            self.screen.write(text)
            self.screen.flush()
        except (OSError, ValueError):
            self.screen = None  # the reader has left; nobody can be told

    def append(self, name: str, text: str) -> None:
        """Add whole lines or nothing: a torn line would break every reader."""
        descriptor = self.files.get(name)
        if descriptor is None:
            return
        data = text.encode()
        whole = 0
        try:
            whole = os.fstat(descriptor).st_size
            if os.write(descriptor, data) != len(data):
                raise OSError("short write")
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, whole)
            if not self.complained:
                self.complained = True
                self.show(f"warning: {name} cannot be written ({error}); training goes on without it\n")

    def rewind(self, step: int) -> None:
        """Take back the lines of all steps after `step`; `train.log` keeps what it said. The clock goes on."""
        if self.directory is not None:
            os.close(self.files.pop(METRICS))
            cut(self.directory / METRICS, step)
            self.files[METRICS] = open_for_lines(self.directory / METRICS)

    def sync(self) -> None:
        """Make all lines durable, before a checkpoint claims their step."""
        for descriptor in self.files.values():
            with contextlib.suppress(OSError):
                os.fsync(descriptor)

    def close(self) -> None:
        if self.on_line:
            self.show("\n")
            self.on_line = False
        for name, tracker in self.trackers.items():
            try:
                tracker.close()
            except Exception as error:  # noqa: BLE001
                self.say(f"warning: --log {name} could not be closed ({type(error).__name__}: {error})")
        self.trackers = {}
        for descriptor in self.files.values():
            os.close(descriptor)
        self.files = {}


def open_log(
    directory: Path,
    step: int | None,
    *,
    screen: TextIO | None = sys.stderr,
    every: int = 10,
    quiet: frozenset[str] = frozenset(),
) -> RunLog:
    """The log of a run that stands at `step`: what was written after it is cut, the clock goes on where it stopped.

    None: the run starts, or starts again because it was killed before its first checkpoint; all lines are cut.

    Kept: lines of steps up to `step`, so that the finished file equals an unbroken run's. Not kept: `stop` lines,
    since the run goes on; the `save` of `step` itself, which the caller writes again; a return to `step`, of which the
    checkpoint knows nothing.
    """
    kept = cut(directory / METRICS, step)
    log = RunLog(directory, screen=screen, every=every, quiet=quiet)
    log.start -= kept[-1]["t"] if kept else 0.0
    return log


def cut(path: Path, step: int | None) -> list[dict[str, Any]]:
    """Keep the lines that belong to a run standing at `step`, in the file too; returns them."""
    if not path.exists():
        return []
    kept = [line for line in read(path) if belongs(line, step)]
    durable.write(path, b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in kept))
    return kept


def open_for_lines(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def belongs(line: dict[str, Any], step: int | None) -> bool:
    if step is None or line["kind"] == "stop":
        return False
    at = int(line.get("step", 0))
    return at < step or (at == step and line["kind"] != "save" and line.get("action") != "return")


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a `metrics.jsonl`; a torn last line, left by a kill, is passed over."""
    lines = []
    for text in path.read_bytes().split(b"\n")[:-1]:
        try:
            lines.append(json.loads(text))
        except ValueError:
            break  # nothing behind a damaged line can be trusted to be in order
    return lines


def finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def columns() -> int:
    try:
        return os.get_terminal_size(2).columns or 80
    except OSError:
        return 80
