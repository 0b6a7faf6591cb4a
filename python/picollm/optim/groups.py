"""Which rule each weight gets, who owns it, and how owned matrices are cut into stacks: pure functions of names, shapes
and the number of ranks, so every rank computes the same answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod

from picollm.model.roles import Role

SMALL = 4096  # elements: below this a tensor is summed whole and updated everywhere
STACK_MOST = 64 << 20  # elements to a stack or bucket: at most 1 GB of temporaries in fp32

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Groups:
    """Names by how they are updated and exchanged, in the order of the model."""

    matrices: tuple[str, ...]  # Muon, owned whole
    tables: tuple[str, ...]  # AdamW, owned by row ranges
    small_matrices: tuple[str, ...]  # Muon, updated everywhere
    small: tuple[str, ...]  # AdamW, updated everywhere


def group_by_role(shapes: Shapes, roles: Mapping[str, Role]) -> Groups:
    """Rule by role, exchange by size."""

    def pick(*, muon: bool, small: bool) -> tuple[str, ...]:
        return tuple(
            name
            for name, shape in shapes.items()
            if (roles[name] is Role.MATRIX) is muon and (prod(shape) < SMALL) is small
        )

    return Groups(
        matrices=pick(muon=True, small=False),
        tables=pick(muon=False, small=False),
        small_matrices=pick(muon=True, small=True),
        small=pick(muon=False, small=True),
    )


def muon_cost(shape: Sequence[int]) -> int:
    """FLOPs of the five iterations on one matrix."""
    short, long = sorted(shape)
    return 10 * short * short * (2 * long + short)


def owners(shapes: Shapes, size: int) -> dict[str, int]:
    """The rank of each matrix: dearest first, each to the least loaded; ties by name, then by rank."""
    load = [0] * size
    owner = {}
    for name in sorted(shapes, key=lambda name: (-muon_cost(shapes[name]), name)):
        rank = load.index(min(load))
        load[rank] += muon_cost(shapes[name])
        owner[name] = rank
    return owner


def row_range(rows: int, rank: int, size: int) -> tuple[int, int]:
    """The rows [a, b) of a table that `rank` owns: ⌈rows/size⌉ each, the last ones short or none."""
    share = -(-rows // size)
    return min(rank * share, rows), min((rank + 1) * share, rows)


def pieces(shapes: Shapes, most: int) -> list[list[list[str]]]:
    """One rank's matrices as pieces of at most `most` elements (or one matrix), each a list of stacks of one shape."""
    found: list[list[list[str]]] = []
    room = 0
    for shape, names in groupby(sorted(shapes, key=lambda name: (shapes[name], name)), key=lambda name: shapes[name]):
        fresh = True
        for name in names:
            if prod(shape) > room:
                found.append([])
                room, fresh = max(most, prod(shape)), True
            if fresh:
                found[-1].append([])
            found[-1][-1].append(name)
            room, fresh = room - prod(shape), False
    return found
