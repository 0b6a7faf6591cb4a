"""One live line on a terminal, one plain line every ten seconds elsewhere; always on stderr."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

PLAIN_SECONDS = 10.0
COUNTERS = ("done", "total", "bytes", "documents", "tokens")


def short(value: float) -> str:
    """3,123,456,789 → `3.12 B`."""
    for size, unit in ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    """190.4 → `3m10s`."""
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{left:02}s" if minutes else f"{left}s"


class Live:
    """Shows what `line(counters, seconds)` makes of a job's counters. Call it with them as often as they come."""

    def __init__(self, line: Callable[[dict[str, int], float], str]) -> None:
        self.line = line
        self.started = time.monotonic()
        self.shown = self.started
        self.terminal = sys.stderr.isatty()
        self.dirty = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.dirty:
            print(file=sys.stderr)

    def __call__(self, counters: dict[str, int]) -> None:
        now = time.monotonic()
        if not self.terminal and now - self.shown < PLAIN_SECONDS:
            return
        self.shown = now
        text = self.line(counters, now - self.started)
        if self.terminal:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
            self.dirty = True
        else:
            print(text, file=sys.stderr, flush=True)
