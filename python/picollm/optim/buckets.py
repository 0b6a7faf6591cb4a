"""What is exchanged together, and the state that its owner keeps."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from picollm.model.roles import Role
from picollm.optim.adamw import adamw_
from picollm.optim.groups import row_range
from picollm.optim.muon import muon_, second_shape
from picollm.plan.rates import AdamWGroup, MuonGroup
from picollm.plan.schedule import Rates
from picollm.runtime.dist import Coming, World

Params = Mapping[str, Tensor]
Piece = list[list[str]]  # stacks of names


def grad_of(name: str, params: Params) -> Tensor:
    """The gradient of a parameter, which every step gives it."""
    grad = params[name].grad
    assert grad is not None, f"{name} has no gradient: was the loss taken back?"
    return grad


class Stack:
    """Muon for matrices of one shape that this rank owns."""

    def __init__(self, names: Sequence[str], params: Params, group: MuonGroup) -> None:
        self.names, self.group = list(names), group
        self.params = [params[name].data for name in names]
        one = self.params[0]
        m, l = one.shape
        self.shape = (len(names), m, l)
        self.momentum = one.new_zeros(self.shape)
        self.second = one.new_zeros(second_shape(*self.shape)) if group.normuon else None
        self.half = one.device.type == "cuda" and one.dtype == torch.float32

    def update(self, grads: Tensor, rates: Rates) -> Tensor:
        """grads (n, m, l), used up → new values (n, m, l)."""
        values = torch.stack(self.params)
        rate = self.group.lr * rates.lr
        muon_(values, grads, self.momentum, self.second, rate, rates.momentum, rates.decay, self.group, half=self.half)
        return values

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """(key, tensor) of each matrix; the tensors are views."""
        for i, name in enumerate(self.names):
            yield f"{name}/momentum", self.momentum[i]
            if self.second is not None:
                yield f"{name}/second", self.second[i]


class Rows:
    """AdamW for rows [a, b) of one tensor."""

    def __init__(self, name: str, param: Tensor, role: Role, group: AdamWGroup, rows: tuple[int, int]) -> None:
        self.name, self.role, self.group, self.rows = name, role, group, rows
        self.whole = rows == (0, param.shape[0])
        self.param = param.data[rows[0] : rows[1]]
        self.exp_avg, self.exp_avg_sq = torch.zeros_like(self.param), torch.zeros_like(self.param)
        self.steps = torch.zeros((), device=param.device)

    def update(self, grad: Tensor, rates: Rates) -> None:
        adamw_(self.param, grad, self.exp_avg, self.exp_avg_sq, self.steps, self.group.lr * rates.lr, self.group)

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """(key, tensor) of the moments; the key of a part names its rows."""
        if self.param.numel():
            part = "" if self.whole else f"[{self.rows[0]}:{self.rows[1]}]"
            yield f"{self.name}/exp_avg{part}", self.exp_avg
            yield f"{self.name}/exp_avg_sq{part}", self.exp_avg_sq


class Bucket(ABC):
    """Weights that are exchanged together. All ranks call the verbs of all buckets in one order.

    Both exchanges are begun by one verb and ended by another, so that the next bucket's work goes on meanwhile:
    `reduce` … `landed`, `update` … `finish`. With one rank there is nothing to wait for.
    """

    summed: Coming | None = None  # the gradient of what this rank owns, from `reduce` to `update`
    values: Coming | None = None  # the new values of all ranks, from `update` to `finish`

    @abstractmethod
    def reduce(self) -> None:
        """Begin to sum the gradients over the ranks."""

    def landed(self) -> None:
        """Wait until the gradients are summed."""
        if self.summed is not None:
            self.summed.wait()

    @abstractmethod
    def squares(self) -> list[Tensor]:
        """Tensors whose squares, over all ranks, add up to the squared norm of the summed gradient."""

    @abstractmethod
    def update(self, rates: Rates, first: bool) -> None:
        """Apply the rule to what this rank owns, and begin to give every rank the new values."""

    @abstractmethod
    def finish(self) -> None:
        """Wait until this rank has the new values."""

    @abstractmethod
    def state(self) -> Iterator[tuple[str, Tensor]]:
        """(key, tensor) of what this rank must save."""


class MatrixBucket(Bucket):
    """One piece of every rank: flat, laid out by owner, each part padded to the longest."""

    def __init__(self, parts: Sequence[Piece], params: Params, group: MuonGroup, world: World) -> None:
        self.params, self.world = params, world
        self.names = [[name for stack in piece for name in stack] for piece in parts]
        self.stacks = [Stack(names, params, group) for names in parts[world.rank]]
        self.length = max(sum(params[name].numel() for name in names) for names in self.names)

    def _views(self, flat: Tensor) -> tuple[list[Tensor], list[str]]:
        """The place of every matrix in flat (ranks · length,), and its name."""
        views, found = [], []
        for part, names in zip(flat.view(-1, self.length), self.names, strict=True):
            sizes = [self.params[name].numel() for name in names]
            places = part[: sum(sizes)].split_with_sizes(sizes)
            views += [place.view(self.params[name].shape) for place, name in zip(places, names, strict=True)]
            found += names
        return views, found

    def _packed(self) -> Tensor:
        first = next(name for names in self.names for name in names)
        flat = self.params[first].new_zeros(self.world.size * self.length)
        views, names = self._views(flat)
        torch._foreach_copy_(views, [grad_of(name, self.params) for name in names])
        return flat

    def reduce(self) -> None:
        if self.world.size > 1:
            self.summed = self.world.reduce_scatter(self._packed())

    def squares(self) -> list[Tensor]:
        if self.summed is not None:
            return [self.summed.wait()]
        return [grad_of(name, self.params) for names in self.names for name in names]

    def update(self, rates: Rates, first: bool) -> None:
        grads = self._packed() if self.summed is None else self.summed.wait()
        values = grads if self.world.size == 1 else torch.zeros_like(grads)
        start = 0
        for stack in self.stacks:
            part = slice(start, start + prod(stack.shape))
            values[part] = stack.update(grads[part].view(stack.shape), rates).view(-1)
            start = part.stop
        self.summed = None
        self.values = self.world.all_gather(values)

    def finish(self) -> None:
        assert self.values is not None
        views, names = self._views(self.values.wait())
        torch._foreach_copy_([self.params[name].data for name in names], views)
        self.values = None

    def state(self) -> Iterator[tuple[str, Tensor]]:
        for stack in self.stacks:
            yield from stack.state()


class TableBucket(Bucket):
    """One large AdamW tensor, owned by row ranges of equal length, the last ones short."""

    def __init__(self, name: str, params: Params, role: Role, group: AdamWGroup, world: World) -> None:
        self.name, self.params, self.world = name, params, world
        param = params[name]
        self.own = Rows(name, param, role, group, row_range(param.shape[0], world.rank, world.size))
        self.share = -(-param.shape[0] // world.size)  # rows to a rank

    def _padded(self, t: Tensor) -> Tensor:
        """t with zero rows after it, so that every rank has a whole share."""
        rows = self.share * self.world.size
        if rows == t.shape[0]:
            return t.contiguous()
        padded = t.new_zeros(rows, *t.shape[1:])
        padded[: t.shape[0]] = t
        return padded

    def reduce(self) -> None:
        if self.world.size > 1:
            grad = self._padded(grad_of(self.name, self.params))
            self.summed = self.world.reduce_scatter(grad.view(-1))

    def _gradient(self) -> Tensor:
        """Of the rows this rank owns, summed over the ranks."""
        if self.summed is None:
            return grad_of(self.name, self.params)
        return self.summed.wait().view(self.share, *self.own.param.shape[1:])[: self.own.param.shape[0]]

    def squares(self) -> list[Tensor]:
        return [self._gradient()]

    def update(self, rates: Rates, first: bool) -> None:
        if self.own.param.numel():
            self.own.update(self._gradient(), rates)
        self.summed = None
        if self.world.size > 1:
            own = self.own.param.new_zeros(self.share, *self.own.param.shape[1:])
            own[: self.own.param.shape[0]] = self.own.param
            self.values = self.world.all_gather(own.view(-1))

    def finish(self) -> None:
        if self.values is not None:
            param = self.params[self.name].data
            param.copy_(self.values.wait().view(-1, *param.shape[1:])[: param.shape[0]])
            self.values = None

    def state(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.own.state()
        if self.world.rank == 0:
            yield f"{self.name}/steps", self.own.steps


class SmallBucket(Bucket):
    """Tensors too small to own: summed in one message, updated alike on every rank, saved by the first."""

    def __init__(self, stacks: Sequence[Stack], rows: Sequence[Rows], params: Params, world: World,
                 hold_first: Sequence[str]) -> None:  # fmt: skip
        self.stacks, self.rows, self.params, self.world = stacks, rows, params, world
        self.hold_first = hold_first
        self.names = [name for stack in stacks for name in stack.names] + [row.name for row in rows]

    def reduce(self) -> None:
        if self.world.size > 1 and self.names:
            grads = [grad_of(name, self.params) for name in self.names]
            flat = self.world.sum_(torch.cat([grad.flatten() for grad in grads]))
            parts = flat.split_with_sizes([grad.numel() for grad in grads])
            torch._foreach_copy_(grads, [part.view_as(grad) for part, grad in zip(parts, grads, strict=True)])

    def squares(self) -> list[Tensor]:
        return [grad_of(name, self.params) for name in self.names] if self.world.rank == 0 else []

    def update(self, rates: Rates, first: bool) -> None:
        for stack in self.stacks:
            grads = torch.stack([grad_of(name, self.params) for name in stack.names])
            torch._foreach_copy_(stack.params, list(stack.update(grads, rates)))
        for row in self.rows:
            if not (first and row.role in self.hold_first):
                row.update(grad_of(row.name, self.params), rates)

    def finish(self) -> None:
        """Every rank made them itself."""

    def state(self) -> Iterator[tuple[str, Tensor]]:
        if self.world.rank == 0:
            yield from self.everywhere()

    def everywhere(self) -> Iterator[tuple[str, Tensor]]:
        """The state of this bucket, which every rank holds."""
        for stack in self.stacks:
            yield from stack.state()
        for row in self.rows:
            yield from row.state()
            yield f"{row.name}/steps", row.steps
