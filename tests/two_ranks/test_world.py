"""Processes that talk: sums, cuts and values are the same on every rank."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.two_ranks.ranks import on_ranks

from picollm.runtime.dist import World


def talk(world: World) -> dict[str, Any]:
    """Every collective once, with numbers that name their rank."""
    own = torch.arange(2 * world.size, dtype=torch.float64) + 10 * world.rank
    part = world.reduce_scatter(own.clone()).wait()
    found = {
        "sum": world.sum_(own.clone()).tolist(),
        "min": world.min_(own.clone()).tolist(),
        "max": world.max_(own.clone()).tolist(),
        "part": part.tolist(),
        "parts": world.all_gather(part).wait().tolist(),
        "values": world.gather({"rank": world.rank, "text": "é" * world.rank}),
        "said": world.broadcast("from one" if world.rank == 1 else None, source=1),
    }
    world.barrier()
    return found


@pytest.mark.slow
def test_two_ranks_agree_on_every_collective(tmp_path: Path) -> None:
    first, second = on_ranks(2, "tests.two_ranks.test_world:talk", tmp_path)
    assert first.pop("part") == [10, 12]
    assert second.pop("part") == [14, 16]
    assert first == second
    assert first["sum"] == first["parts"] == [10, 12, 14, 16]
    assert (first["min"], first["max"]) == ([0, 1, 2, 3], [10, 11, 12, 13])
    assert first["values"] == [{"rank": 0, "text": ""}, {"rank": 1, "text": "é"}]
    assert first["said"] == "from one"
