"""`World`: the processes of one run and how they talk. One process is a world of one and needs no group.

Tensors are summed, never averaged: dividing by a count that all ranks know is exact, an average of averages is not.
Values cross as JSON, so that nothing here unpickles what another process sent.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from picollm.errors import RankLostError, UsageError

TIMEOUT = timedelta(minutes=10)  # while opening, compiling, validating and saving, where ranks wait for each other
STEP_SECONDS = 60  # within a step; a dead peer is noticed at once by its closed socket, this is for one that hangs
STEP_VARIABLE = "PICOLLM_RANK_TIMEOUT"  # other seconds for it

# Renamed in torch 2.13, where the old names warn at every first use.
REDUCE_SCATTER = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
ALL_GATHER = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


def set_timeout(timeout: timedelta) -> None:
    """Of all that the ranks say to each other from now on. Where torch cannot, the longer one stays."""
    setter = getattr(dist.distributed_c10d, "_set_pg_timeout", None)
    if setter is not None and dist.is_initialized():
        setter(timeout)


@contextlib.contextmanager
def peers_answer() -> Iterator[None]:
    """What the transport says of a dead or silent peer, as one error. Nothing may be decided or saved after it."""
    try:
        yield
    except RuntimeError as error:
        raise RankLostError(
            f"another rank has died or does not answer: {str(error).splitlines()[0]}",
            hint="look for its own message above; the same command goes on from the last checkpoint",
        ) from error


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"{name}={text!r} is not a whole number", hint="start with torchrun, or unset it")
    return int(text)


class Coming:
    """A tensor that the ranks are still exchanging. `given` is kept until it is here: the transport reads it."""

    def __init__(self, tensor: Tensor, given: Tensor | None = None, work: Any = None) -> None:
        self.tensor, self.given, self.work = tensor, given, work

    def wait(self) -> Tensor:
        """The tensor, once it is whole. Raises RankLostError."""
        if self.work is not None:
            with peers_answer():
                self.work.wait()
            self.work = self.given = None
        return self.tensor


class World:
    """Rank `rank` of `size`, with collectives that all ranks call in the same order.

    Use it as a context: the group is left in all cases. `World()` is one process alone.
    """

    def __init__(self, device: torch.device | str = "cpu", rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.device = torch.device(device)
        self.rank, self.size, self.local_rank = rank, size, local_rank

    @classmethod
    def open(cls, device: str = "cpu", *, init_method: str = "env://", timeout: timedelta = TIMEOUT) -> Self:
        """The world that RANK, WORLD_SIZE and LOCAL_RANK describe: nccl for "cuda", gloo otherwise.

        More than one process always gets a group: without one each would train its own copy.
        """
        rank, size = _number("RANK", 0), _number("WORLD_SIZE", 1)
        local_rank = _number("LOCAL_RANK", rank)
        if not 0 <= rank < size:
            raise UsageError(f"RANK={rank} is outside WORLD_SIZE={size}", hint="start with torchrun")
        cuda = torch.device(device).type == "cuda"
        if cuda:
            if local_rank >= torch.cuda.device_count():
                found = torch.cuda.device_count()
                raise UsageError(f"local rank {local_rank} has no GPU: {found} found", hint=f"--nproc-per-node {found}")
            torch.cuda.set_device(local_rank)
        place = torch.device("cuda", local_rank) if cuda else torch.device(device)
        if size > 1:
            store, _, _ = next(rendezvous(init_method, rank, size, timeout=timeout))
            # torchrun keeps its store over restarts: without a name per attempt a rank may find a dead peer's address.
            attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            dist.init_process_group(
                "nccl" if cuda else "gloo",
                store=PrefixStore(f"attempt {attempt}", store),
                rank=rank,
                world_size=size,
                timeout=timeout,
                device_id=place if cuda else None,
            )
        return cls(place, rank, size, local_rank)

    def close(self) -> None:
        """Leave the group. Safe to call twice."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def in_step(self) -> Iterator[None]:
        """Inside, ranks are at the same work: one that does not answer for a minute hangs, and the others leave."""
        if self.size == 1:
            yield
            return
        set_timeout(timedelta(seconds=_number(STEP_VARIABLE, STEP_SECONDS)))
        try:
            yield
        finally:
            set_timeout(TIMEOUT)

    def sum_(self, t: Tensor) -> Tensor:
        """`t` summed over the ranks, in place."""
        return self._reduced(t, dist.ReduceOp.SUM)

    def min_(self, t: Tensor) -> Tensor:
        """The least of each element over the ranks, in place."""
        return self._reduced(t, dist.ReduceOp.MIN)

    def max_(self, t: Tensor) -> Tensor:
        """The greatest of each element over the ranks, in place."""
        return self._reduced(t, dist.ReduceOp.MAX)

    def _reduced(self, t: Tensor, how: Any) -> Tensor:
        if self.size > 1:
            with peers_answer():
                dist.all_reduce(t, op=how)
        return t

    def reduce_scatter(self, parts: Tensor) -> "Coming":
        """Sum of `parts` over the ranks, cut: parts (size · n,) → the n elements of this rank. One rank: no copy."""
        if self.size == 1:
            return Coming(parts)
        own = parts.new_empty(parts.numel() // self.size)
        with peers_answer():
            return Coming(own, parts, REDUCE_SCATTER(own, parts, async_op=True))

    def all_gather(self, own: Tensor) -> "Coming":
        """The parts of all ranks in rank order: own (n,) → (size · n,). One rank: no copy."""
        if self.size == 1:
            return Coming(own)
        parts = own.new_empty(own.numel() * self.size)
        with peers_answer():
            return Coming(parts, own, ALL_GATHER(parts, own, async_op=True))

    def gather(self, value: Any) -> list[Any]:
        """The JSON values of all ranks in rank order, on every rank."""
        if self.size == 1:
            return [value]
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(self.device)
        lengths = self.all_gather(torch.tensor([data.numel()], device=self.device)).wait().tolist()
        padded = data.new_zeros(max(lengths))
        padded[: data.numel()] = data
        rows = self.all_gather(padded).wait().view(self.size, -1).cpu()
        return [json.loads(bytes(row[:n].tolist())) for row, n in zip(rows, lengths, strict=True)]

    def broadcast(self, value: Any, source: int = 0) -> Any:
        """The JSON value of rank `source`, on every rank; what the others pass is ignored."""
        return value if self.size == 1 else self.gather(value if self.rank == source else None)[source]

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.sum_(torch.zeros(1, device=self.device))
        if self.size > 1 and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
