"""The picture of a run: loss, validation and rate over steps as one SVG that needs nothing; and a one-line sparkline.

Three panels share the step axis, because loss (nats per token), bits per byte and a rate have no unit in common.
Same run, same bytes: no clock, no random ids, two decimals.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from picollm.report.run import Run

WIDTH = 880
LEFT, RIGHT = 64, 132  # room for tick labels, and for the names written at the right end of lines
BUCKETS = 360  # raw points are drawn as least and greatest of so many slices, so 10⁶ steps stay a small file
SMOOTHING = 40  # the smooth line is the mean of steps/40 on either side
BARS = "▁▂▃▄▅▆▇█"

Point = tuple[float, float]

# Colours by class: (light, dark). Written out twice, since many viewers of SVG know no CSS variables.
PAINT = {
    "text": ("fill: #5d6977", "fill: #98a3b0"),
    ".head, .unit": ("fill: #1f2933", "fill: #e6e9ee"),
    ".paper": ("fill: #ffffff", "fill: #12161b"),
    ".grid": ("stroke: #e4e8ec", "stroke: #2b323b"),
    ".axis": ("stroke: #8592a0", "stroke: #6b7785"),
    ".raw, .smooth": ("stroke: #2f6fde", "stroke: #6ea1ff"),
    ".of-loss": ("fill: #2f6fde", "fill: #6ea1ff"),
    ".val": ("stroke: #d1495b", "stroke: #ff7d8c"),
    ".dot, .of-val": ("fill: #d1495b", "fill: #ff7d8c"),
    ".best": ("fill: #ffffff; stroke: #d1495b", "fill: #12161b; stroke: #ff7d8c"),
    ".base": ("stroke: #7a8794", "stroke: #8592a0"),
    ".rate": ("fill: #8a6fd1; stroke: #8a6fd1", "fill: #b39bf5; stroke: #b39bf5"),
    ".of-rate": ("fill: #8a6fd1", "fill: #b39bf5"),
}
SHAPE = """
  text { font-family: ui-sans-serif, system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif; font-size: 12px; }
  .head { font-size: 17px; font-weight: 600; }
  .unit, .of-loss, .of-val, .of-rate { font-weight: 600; }
  .raw { fill: none; stroke-width: 1; stroke-opacity: .4; }
  .smooth, .val { fill: none; stroke-width: 2.2; stroke-linejoin: round; stroke-linecap: round; }
  .best { stroke-width: 2.4; }
  .base { stroke-width: 1.2; stroke-dasharray: 5 4; }
  .rate { fill-opacity: .18; stroke-width: 1.4; stroke-linejoin: round; }
""".strip("\n")


def style() -> str:
    light, dark = ("\n".join(f"  {css} {{ {paint[shade]} }}" for css, paint in PAINT.items()) for shade in (0, 1))
    return f"{SHAPE}\n{light}\n  @media (prefers-color-scheme: dark) {{\n{dark}\n  }}"


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values inside [low, high], at a distance of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    distance = next(power * unit for unit in (1, 2, 5, 10) if power * unit >= rough * 0.999)
    first = math.ceil(low / distance - 1e-9)
    return [round(index * distance, 12) for index in range(first, math.floor(high / distance + 1e-9) + 1)]


def smooth(points: Sequence[Point]) -> list[Point]:
    """Centred mean over 1/40 of the points on either side. The window shrinks at the start, so the fall stays steep."""
    reach = max(1, len(points) // SMOOTHING)
    sums = [0.0]
    for _, value in points:
        sums.append(sums[-1] + value)
    means = []
    for index, (x, _) in enumerate(points):
        first = index - min(reach, index)
        last = min(index + min(reach, index), len(points) - 1)
        means.append((x, (sums[last + 1] - sums[first]) / (last + 1 - first)))
    return means


def thin(points: Sequence[Point]) -> list[Point]:
    """At most two points for each of 360 slices, the least and the greatest in their order: peaks survive."""
    size = math.ceil(len(points) / BUCKETS)
    if size <= 2:
        return list(points)
    kept: list[Point] = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        ends = {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept


def every(points: Sequence[Point]) -> list[Point]:
    """Evenly chosen points of a line already smooth, at most 361, the last among them."""
    size = math.ceil(len(points) / BUCKETS)
    kept = list(points[::size])
    return kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]


def sparkline(values: Iterable[float], width: int = 8) -> str:
    """`▇▅▄▃▂▁`: means of `width` equal parts, lowest to highest. Empty for no finite value."""
    finite = [value for value in values if math.isfinite(value)]
    width = min(width, len(finite))
    cuts = [len(finite) * part // width for part in range(width + 1)] if width else []
    means = [sum(finite[a:b]) / (b - a) for a, b in itertools.pairwise(cuts)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((mean - low) * scale)] for mean in means)


@dataclass(frozen=True)
class Panel:
    """A plotting area: `top`..`top + height` pixels for `low`..`high`, steps 0..`steps` across."""

    top: float
    height: float
    low: float
    high: float
    steps: int

    def x(self, step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / max(1, self.steps)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.top + self.height * (1 - share)

    def line(self, points: Sequence[Point], css: str) -> str:
        path = " ".join(f"{self.x(step):.2f},{self.y(value):.2f}" for step, value in points)
        return f'<polyline class="{css}" points="{path}"/>'

    def grid(self, unit: str, about: int = 4) -> list[str]:
        """Horizontal lines with their values, and the unit above them."""
        marks = ticks(self.low, self.high, about)
        digits = max((len(f"{mark:g}".partition(".")[2]) for mark in marks), default=0)
        out = [text(LEFT, self.top - 10, unit, "unit")]
        for mark in marks:
            y = self.y(mark)
            out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.2f}" y2="{y:.2f}"/>')
            out.append(text(LEFT - 8, y + 4, f"{mark:.{digits}f}", anchor="end"))
        return out


def text(x: float, y: float, words: str, css: str = "", anchor: str = "start") -> str:
    style = f' class="{css}"' if css else ""
    side = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text x="{x:.2f}" y="{y:.2f}"{style}{side}>{escape(words)}</text>'


def apart(wanted: Sequence[float], gap: float, top: float, bottom: float) -> list[float]:
    """Heights nearest to the wanted ones, in the same order of height, at least `gap` apart, inside top..bottom."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    placed: dict[int, float] = {}
    floor = top
    for index in order:
        placed[index] = max(wanted[index], floor)
        floor = placed[index] + gap
    ceiling = bottom
    for index in reversed(order):
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - gap
    return [placed[index] for index in range(len(wanted))]


def loss_panel(run: Run, top: float, steps: int) -> tuple[list[str], float]:
    points: list[Point] = [(float(step), value) for step, value in run.curve("loss")]
    height = 210.0
    if not points:
        return [], 0.0
    mean = smooth(points)
    values = [value for _, value in points]
    room = 0.04 * (max(values) - min(values)) or 0.5
    panel = Panel(top, height, min(values) - room, max(values) + room, steps)
    end = mean[-1]
    out = panel.grid("train loss, nats per token", 5)
    out += [panel.line(thin(points), "raw"), panel.line(every(mean), "smooth")]
    out.append(text(panel.x(end[0]) + 12, panel.y(end[1]) + 4, f"train {end[1]:.3f}", "of-loss"))
    return out, height


def val_panel(run: Run, top: float, steps: int) -> tuple[list[str], float]:
    points: list[Point] = [(float(step), value) for step, value in run.val]
    best = run.best
    if best is None:
        return [], 0.0
    height = 170.0
    base = run.baselines()
    values = [value for _, value in points] + list(base.values())
    room = 0.06 * (max(values) - min(values)) or 0.1
    panel = Panel(top, height, min(values) - room, max(values) + room, steps)
    out = panel.grid("validation, bits per byte")
    for value in base.values():
        y = panel.y(value)
        out.append(f'<line class="base" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.2f}" y2="{y:.2f}"/>')
    out.append(panel.line(points, "val"))
    if len(points) <= BUCKETS:
        out += [f'<circle class="dot" cx="{panel.x(x):.2f}" cy="{panel.y(y):.2f}" r="3"/>' for x, y in points]
    out.append(f'<circle class="best" cx="{panel.x(best[0]):.2f}" cy="{panel.y(best[1]):.2f}" r="5.5"/>')
    names = [(f"best {best[1]:.3f}", best[1], "of-val"), *((f"{name} {x:.3f}", x, "") for name, x in base.items())]
    heights = apart([panel.y(value) + 4 for _, value, _ in names], 15, top + 4, top + height + 4)
    out += [text(WIDTH - RIGHT + 12, y, words, css) for (words, _, css), y in zip(names, heights, strict=True)]
    return out, height


def rate_panel(run: Run, top: float, steps: int) -> tuple[list[str], float]:
    points: list[Point] = [(float(step), value) for step, value in run.curve("lr_mult")]
    if not points:
        return [], 0.0
    height = 52.0
    panel = Panel(top, height, 0.0, max(1.0, *(value for _, value in points)), steps)
    shape = [(points[0][0], 0.0), *every(points), (points[-1][0], 0.0)]
    path = " ".join(f"{panel.x(x):.2f},{panel.y(y):.2f}" for x, y in shape)
    out = [*panel.grid("learning rate, share of peak", 2), f'<polygon class="rate" points="{path}"/>']
    out.append(text(panel.x(points[-1][0]) + 12, panel.y(points[-1][1]) + 4, f"LR {points[-1][1]:.2f}", "of-rate"))
    return out, height


def step_axis(run: Run, top: float, steps: int) -> list[str]:
    """Steps, and under them the tokens read so far."""
    panel = Panel(top, 0, 0, 1, steps)
    per_step = run.tokens_done / max(1, run.steps_done)
    out = [f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{top:.2f}" y2="{top:.2f}"/>']
    for mark in ticks(0, steps, 7):
        x = panel.x(mark)
        out.append(f'<line class="axis" x1="{x:.2f}" x2="{x:.2f}" y1="{top:.2f}" y2="{top + 5:.2f}"/>')
        out.append(text(x, top + 19, f"{mark:,.0f}", anchor="middle"))
        if mark and per_step:
            out.append(text(x, top + 34, short(mark * per_step), anchor="middle"))
    out.append(text(LEFT - 12, top + 19, "steps", anchor="end"))
    out.append(text(LEFT - 12, top + 34, "tokens", anchor="end") if per_step else "")
    return out


def short(count: float) -> str:
    """720,896 → `721 K`, 4.16e9 → `4.16 B`: three digits and a letter."""
    for size, letter in ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " K")):
        if count >= size * 0.9995:
            return f"{count / size:.3g}{letter}"
    return f"{count:.0f}"


def describe(run: Run) -> str:
    """The picture in a sentence, for those who cannot see it."""
    loss = run.curve("loss")
    words = [f"Training curve of {run.name}: {run.steps_done:,} steps, {short(run.tokens_done)} tokens."]
    if loss:
        words.append(f"Train loss falls from {loss[0][1]:.3f} to {smooth(loss)[-1][1]:.3f} nats per token.")
    if best := run.best:
        words.append(f"Lowest validation {best[1]:.3f} bits per byte at step {best[0]:,}.")
    words += [f"{name} reaches {value:.3f}." for name, value in run.baselines().items()]
    return " ".join(words)


def draw(run: Run) -> str:
    """The whole picture as SVG text, light or dark as its reader likes it."""
    steps = max(run.steps_done, *(step for step, _ in run.val), 1)
    parts: list[str] = []
    top = 100.0
    for panel in (loss_panel, val_panel, rate_panel):
        drawn, height = panel(run, top, steps)
        if drawn:
            parts += drawn
            top += height + 46
    parts += step_axis(run, top - 36, steps)
    full = top + 20
    head = f"{run.steps_done:,} steps · {short(run.tokens_done)} tokens"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {full:.0f}" width="{WIDTH}"'
            f' height="{full:.0f}" role="img" aria-labelledby="title desc">',
            f'<title id="title">Training curve of {escape(run.name)}</title>',
            f'<desc id="desc">{escape(describe(run))}</desc>',
            f"<style>\n{style()}\n</style>",
            '<rect class="paper" width="100%" height="100%" rx="8"/>',
            text(LEFT, 34, run.name, "head"),
            text(LEFT, 54, head),
            *(part for part in parts if part),
            "</svg>\n",
        ]
    )
