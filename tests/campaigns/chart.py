"""Lines over an axis as one SVG, light or dark as its reader likes it; named at their right ends."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from picollm.report.picture import apart, text, ticks

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 64, 168, 56, 48
COLOURS = (("#2f6fde", "#6ea1ff"), ("#d1495b", "#ff7d8c"), ("#3f8f5f", "#6cc48f"), ("#8a6fd1", "#b39bf5"),
           ("#b7791f", "#e6b455"), ("#5d6977", "#98a3b0"), ("#0f8b8d", "#4fc3c5"))  # fmt: skip


@dataclass(frozen=True)
class Line:
    """points: (x, y). low, high: of a band around it, at the same x; none if empty."""

    name: str
    points: Sequence[tuple[float, float]]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def draw(title: str, across: str, up: str, lines: Sequence[Line], *, log_x: bool = False, log_y: bool = False) -> str:
    """The picture. With log_x every x that occurs is a tick; with log_y powers of ten are."""
    fx = math.log2 if log_x else float
    fy = math.log10 if log_y else float
    xs = sorted({x for line in lines for x, _ in line.points})
    ys = [fy(y) for line in lines for y in (*(y for _, y in line.points), *line.low, *line.high)]
    room = 0.05 * (max(ys) - min(ys)) or 0.1
    low, high = min(ys) - room, max(ys) + room

    def px(x: float) -> float:
        span = fx(xs[-1]) - fx(xs[0])
        return LEFT + (WIDTH - LEFT - RIGHT) * ((fx(x) - fx(xs[0])) / span if span else 0.5)

    def py(y: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - fy(y)) / (high - low)

    parts = [text(LEFT, 24, title, "head"), text(LEFT, 44, up), text(WIDTH - RIGHT, HEIGHT - 10, across, anchor="end")]
    heights = [10.0**mark for mark in range(math.ceil(low), math.floor(high) + 1)] if log_y else ticks(low, high)
    for mark in heights:
        parts.append(f'<path class="grid" d="M{LEFT} {py(mark):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(text(LEFT - 8, py(mark) + 4, f"{mark:g}", anchor="end"))
    for mark in xs if log_x else ticks(xs[0], xs[-1]):
        parts.append(text(px(mark), HEIGHT - 28, f"{mark:,.6g}", anchor="middle"))
    places = apart([py(line.points[-1][1]) + 4 for line in lines], 15, TOP, HEIGHT - BOTTOM)
    for number, (line, place) in enumerate(zip(lines, places, strict=True)):
        colour = f"c{number % len(COLOURS)}"
        if line.low:
            edge = [*zip(line.points, line.high, strict=True), *reversed([*zip(line.points, line.low, strict=True)])]
            band = " ".join(f"{px(x):.1f},{py(y):.1f}" for (x, _), y in edge)
            parts.append(f'<polygon class="band {colour}" points="{band}"/>')
        path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in line.points)
        parts.append(f'<polyline class="line {colour}" points="{path}"/>')
        parts.append(text(WIDTH - RIGHT + 10, place, line.name, f"name {colour}"))
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">',
        f"<style>\n{style()}\n</style>", '<rect class="paper" width="100%" height="100%" rx="8"/>', *parts, "</svg>\n",
    ])  # fmt: skip


def style() -> str:
    base = ("text { font: 12px ui-sans-serif, system-ui, 'DejaVu Sans', sans-serif } .head { font-size: 16px } "
            ".line { fill: none; stroke-width: 2 } .band { fill-opacity: .18; stroke: none }")  # fmt: skip
    shades = []
    for shade, (paper, ink, grid) in enumerate((("#fff", "#3d4752", "#e4e8ec"), ("#12161b", "#aab4c0", "#2b323b"))):
        rules = [f".paper {{ fill: {paper} }} text {{ fill: {ink} }} .grid {{ stroke: {grid} }}"]
        rules += [
            f".line.c{i} {{ stroke: {pair[shade]} }} .band.c{i}, .name.c{i} {{ fill: {pair[shade]} }}"
            for i, pair in enumerate(COLOURS)
        ]
        shades.append("\n".join(rules))
    return f"{base}\n{shades[0]}\n@media (prefers-color-scheme: dark) {{\n{shades[1]}\n}}"
