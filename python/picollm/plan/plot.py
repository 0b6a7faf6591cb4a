"""A curve in the terminal: the learning rate over a run."""

from collections.abc import Callable

from picollm.plan.schedule import Schedule, lr_at
from picollm.plan.trainplan import TrainPlan

WIDTH, HEIGHT = 64, 8
EIGHTHS = " ▁▂▃▄▅▆▇█"
MARGIN = 8  # of the labels


def columns(read: Callable[[int], float], count: int, width: int) -> list[float]:
    """`read` at `width` places, evenly from the first of `count` steps to the last."""
    return [read(round(i * (count - 1) / max(1, width - 1))) for i in range(width)]


def bars(values: list[float], top: float, height: int) -> list[str]:
    """Rows of text, the highest first; each cell shows eighths of a row."""
    rows = []
    for row in range(height, 0, -1):
        filled = [round(8 * (height * value / top - (row - 1))) for value in values]
        rows.append("".join(EIGHTHS[max(0, min(8, eighths))] for eighths in filled))
    return rows


def lr_curve(plan: TrainPlan, width: int = WIDTH, height: int = HEIGHT) -> str:
    """The matrices' rate from the first step to the last, with its corners named (K26)."""
    schedule, peak = plan.schedule, plan.optim.muon.lr
    width = max(2, min(width, schedule.steps))
    lines = bars(columns(lambda step: lr_at(step, schedule), schedule.steps, width), 1.0, height)
    labels = [f"{peak:.4g}", *[""] * (height - 2), "0"]
    text = [f"   {label:>{MARGIN}} {line.rstrip()}" for label, line in zip(labels, lines, strict=True)]
    last = f"{schedule.steps:,}"
    axis = " " * (MARGIN + 4) + f"{0:<{max(2, width - len(last))}}{last} steps"
    return "\n".join(["   learning rate of the matrices", *text, axis, f"   {corners(schedule)}"]) + "\n"


def corners(schedule: Schedule) -> str:
    """Where the curve turns."""
    down = schedule.steps - schedule.warmdown
    last = lr_at(schedule.steps - 1, schedule)
    end = f"{100 * last:.2g} % of the peak at the last"
    return f"up to step {schedule.warmup:,}, flat to step {down:,}, then down to {end}"
