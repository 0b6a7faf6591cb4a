"""Optimizer state by name, whatever the world that wrote it: whole tensors, or row ranges that tile one."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from picollm.errors import CheckpointError

KEY = re.compile(r"(?P<base>[^\[\]]+)(?:\[(?P<start>[0-9]+):(?P<end>[0-9]+)\])?")


@dataclass(frozen=True)
class Part:
    """Rows [start, end) of a tensor, under `key`; the whole of it if `end` is None."""

    key: str
    start: int
    end: int | None


def parse(key: str) -> tuple[str, Part]:
    """The name without its range, and the part. Raises CheckpointError for another form."""
    match = KEY.fullmatch(key)
    if match is None:
        raise CheckpointError(f"optimizer state: {key!r} is not the name of a tensor")
    if match["start"] is None:
        return match["base"], Part(key, 0, None)
    return match["base"], Part(key, int(match["start"]), int(match["end"]))


def arranged(keys: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> dict[str, list[Part]]:
    """The parts of every expected tensor, in row order. Raises CheckpointError unless each occurs exactly once."""
    found: dict[str, list[Part]] = {}
    for key in keys:
        base, part = parse(key)
        found.setdefault(base, []).append(part)
    if differ := sorted(found.keys() ^ expected.keys()):
        raise CheckpointError(f"optimizer state: {len(differ)} tensors are missing or unknown, such as {differ[0]}")
    for base, parts in found.items():
        parts.sort(key=lambda part: part.start)
        rows = expected[base][0] if expected[base] else 0
        edges = [(part.start, rows if part.end is None else part.end) for part in parts]
        tiled = [start for start, _ in edges] == [0, *(end for _, end in edges[:-1])] and edges[-1][1] == rows
        if not tiled:
            ranges = ", ".join(f"[{start}:{end}]" for start, end in edges)
            raise CheckpointError(f"optimizer state: {base} has {rows} rows, the files hold {ranges}")
    return found


@torch.no_grad()
def fill(target: Tensor, rows: tuple[int, int] | None, parts: list[Part], tensors: Mapping[str, Tensor]) -> None:
    """Copy rows [a, b) of what `parts` hold into target; all of it if rows is None.

    Parts that do not meet those rows are not read. Raises CheckpointError where shape or dtype differ.
    """
    for part in parts:
        if rows is not None and part.end is not None and (part.end <= rows[0] or part.start >= rows[1]):
            continue
        piece, place = tensors[part.key], target
        if rows is not None:
            end = part.start + piece.shape[0]
            low, high = max(part.start, rows[0]), min(end, rows[1])
            piece, place = piece[low - part.start : high - part.start], target[low - rows[0] : high - rows[0]]
        if piece.shape != place.shape or piece.dtype != place.dtype:
            want = f"{tuple(place.shape)} {place.dtype}"
            raise CheckpointError(f"optimizer state: {part.key} is {tuple(piece.shape)} {piece.dtype}, not {want}")
        place.copy_(piece)
