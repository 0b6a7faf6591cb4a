"""How fast a run goes, and when it will end."""

import statistics
from collections import deque

FIRST_STEPS = 10  # of a process: caches and allocators still warm up, so they do not count
WINDOW = 50
LOOKED_AT = 20  # counted steps after which the share of waiting is judged, once
MOST_WAITING = 0.10  # of a step: more, and the device idles for want of rows


class Pace:
    """Median seconds per step, and mean seconds of what happens between steps (evaluation, saving)."""

    def __init__(self) -> None:
        self.seen = 0
        self.all: deque[float] = deque(maxlen=WINDOW)
        self.counted: deque[float] = deque(maxlen=WINDOW)
        self.waits: list[float] = []
        self.costs: dict[str, list[float]] = {}

    def step(self, seconds: float, flags: list[str], waited: float = 0.0) -> float | None:
        """`flags` says why the step is not typical; such a step does not count. `waited`: its seconds without rows.

        Returns, once, the median share of waiting where it is more than it should be.
        """
        self.seen += 1
        self.all.append(seconds)
        if not flags:
            self.counted.append(seconds)
            if len(self.waits) < LOOKED_AT:
                self.waits.append(waited / seconds)
                if len(self.waits) == LOOKED_AT and (share := statistics.median(self.waits)) > MOST_WAITING:
                    return share
        return None

    @property
    def warming(self) -> bool:
        """True while the next step is one of the first of this process."""
        return self.seen < FIRST_STEPS

    def spent(self, what: str, seconds: float) -> None:
        self.costs.setdefault(what, []).append(seconds)

    @property
    def seconds_per_step(self) -> float | None:
        """Median over the last counted steps; over the uncounted ones while there are no others."""
        durations = self.counted or self.all
        return statistics.median(durations) if durations else None

    def eta(self, steps_left: int, *, evals_left: int = 0, saves_left: int = 0) -> float | None:
        """Seconds to the end, or None before the first step."""
        if (step := self.seconds_per_step) is None:
            return None
        return steps_left * step + evals_left * self.mean("eval") + saves_left * self.mean("save")

    def mean(self, what: str) -> float:
        costs = self.costs.get(what)
        return statistics.fmean(costs) if costs else 0.0


def duration(seconds: float) -> str:
    """`9s`, `4m05s`, `3h55m`, `2d04h`.

    >>> [duration(s) for s in (9.4, 245, 14100, 187200)]
    ['9s', '4m05s', '3h55m', '2d04h']
    """
    s = round(seconds)
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m{s % 60:02d}s"
    if s < 86400:
        return f"{s // 3600}h{s % 3600 // 60:02d}m"
    return f"{s // 86400}d{s % 86400 // 3600:02d}h"
