"""A world of one, and environments that make no sense."""

import pytest
import torch

from picollm.errors import UsageError
from picollm.runtime.dist import World


def test_one_process_is_a_world_without_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    with World.open() as world:
        t = torch.tensor([1.0, 2.0])
        assert (world.rank, world.size) == (0, 1)
        assert not torch.distributed.is_initialized()
        assert world.sum_(t) is world.min_(t) is t
        assert world.reduce_scatter(t).wait() is world.all_gather(t).wait() is t
        assert world.gather("a") == ["a"]
        assert world.broadcast({"b": 1}) == {"b": 1}
        world.barrier()


@pytest.mark.parametrize(("rank", "size"), [("2", "2"), ("0", "0"), ("one", "2"), ("0", "-1")])
def test_an_impossible_rank_is_refused(monkeypatch: pytest.MonkeyPatch, rank: str, size: str) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(UsageError):
        World.open()
