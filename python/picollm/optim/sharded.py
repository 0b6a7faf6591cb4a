"""The optimizer of one run: who owns what, when the ranks talk, and state keyed by the names of parameters.

Every rank holds all weights and gradients; each keeps the state of what it owns, updates that, and hands the new
values round. Numbers are those of one process but for the order of the gradient's sum.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from picollm.model.roles import Role
from picollm.optim.buckets import Bucket, MatrixBucket, Piece, Rows, SmallBucket, Stack, TableBucket
from picollm.optim.groups import STACK_MOST, group_by_role, owners, pieces
from picollm.optim.muon import second_shape
from picollm.optim.state import arranged, fill
from picollm.plan.rates import OptimPlan
from picollm.plan.schedule import Rates
from picollm.runtime.dist import World


class Optimizer:
    """Muon and AdamW by role, over the ranks of `world`. All state is allocated here.

    A step is `reduce`, `grad_norm` if wanted, then `step` or nothing, then `zero_grad`. The model's parameters must
    stay the tensors they are now; their values may be overwritten in place.
    """

    def __init__(
        self,
        model: nn.Module,
        roles: Mapping[str, Role],
        plan: OptimPlan,
        world: World,
        *,
        stack_most: int = STACK_MOST,
    ) -> None:
        self.params = dict(model.named_parameters())
        self.plan, self.world, self.roles = plan, world, roles
        self.shapes = {name: tuple(param.shape) for name, param in self.params.items()}
        self.groups = group_by_role(self.shapes, roles)
        self.matrices = self._matrix_buckets(stack_most)
        self.tables = [
            TableBucket(name, self.params, roles[name], plan.adamw[roles[name]], world) for name in self.groups.tables
        ]
        self.small = self._small_bucket(stack_most)
        self.buckets: Sequence[Bucket] = [*self.matrices, *self.tables, self.small]
        self._reduced = False

    def _matrix_buckets(self, stack_most: int) -> list[MatrixBucket]:
        """Bucket i holds the i-th piece of each rank."""
        shapes = {name: self.shapes[name] for name in self.groups.matrices}
        owner = owners(shapes, self.world.size)
        cut: list[list[Piece]] = []
        for rank in range(self.world.size):
            owned = {name: shape for name, shape in shapes.items() if owner[name] == rank}
            cut.append(pieces(owned, stack_most // self.world.size))
        return [
            MatrixBucket([rank[i] if i < len(rank) else [] for rank in cut], self.params, self.plan.muon, self.world)
            for i in range(max(map(len, cut)))
        ]

    def _small_bucket(self, stack_most: int) -> SmallBucket:
        cut = pieces({name: self.shapes[name] for name in self.groups.small_matrices}, stack_most)
        stacks = [Stack(names, self.params, self.plan.muon) for piece in cut for names in piece]
        rows = [
            Rows(name, self.params[name], role, self.plan.adamw[role], (0, self.shapes[name][0]))
            for name in self.groups.small
            for role in [self.roles[name]]
        ]
        return SmallBucket(stacks, rows, self.params, self.world, self.plan.hold_first)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self._reduced = False
        for param in self.params.values():
            param.grad = None
        for bucket in self.buckets:
            bucket.landed()  # after a step that is not taken
            bucket.summed = None

    @torch.no_grad()
    def reduce(self) -> None:
        """Sum the gradients over the ranks, once per step. `grad_norm` and `step` do it if it was not done.

        A bucket is packed while the one before it travels; no more than two of them stand packed.
        """
        if self._reduced:
            return
        before: Bucket | None = None
        for bucket in self.buckets:
            bucket.reduce()
            if before is not None:
                before.landed()
            before = bucket
        self._reduced = True

    @torch.no_grad()
    def grad_norm(self) -> Tensor:
        """Norm of the whole gradient, summed over the ranks: 0-D fp32, the same number on all of them."""
        self.reduce()
        parts = [part for bucket in self.buckets for part in bucket.squares() if part.numel()]
        squares = torch.zeros((), device=self.world.device)
        if parts:
            squares = torch.stack(torch._foreach_norm(parts)).float().square().sum()
        return self.world.sum_(squares).sqrt()

    def not_finite(self) -> list[str]:
        """Parameters whose gradient on this rank holds NaN or ∞, last layers first; the small ones are summed ones."""
        return [
            name
            for name, param in reversed(self.params.items())
            if param.grad is not None and not bool(param.grad.isfinite().all())
        ]

    @torch.no_grad()
    def step(self, rates: Rates, first: bool) -> None:
        """Update every parameter; bitwise the same on all ranks.

        first: no update was applied before. Roles of `plan.hold_first` then stay: their true gradient is zero and
        what arrives is rounding noise, of which AdamW would make a full step.
        """
        self.reduce()
        before: Bucket | None = None
        for bucket in self.buckets:  # new values travel while the next bucket's are made
            bucket.update(rates, first)
            if before is not None:
                before.finish()
            before = bucket
        if before is not None:
            before.finish()
        self._reduced = False

    def state_dict(self) -> dict[str, Tensor]:
        """What this rank must save: "name/momentum", "name/exp_avg[a:b]" …; over all ranks each occurs once. Views."""
        return {key: tensor for bucket in self.buckets for key, tensor in bucket.state()}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a state, given all files of it, from any number of ranks. Raises CheckpointError, changing nothing
        if names or row ranges are wrong.
        """
        parts = arranged(tensors, self._expected())
        for key, target, rows in self._held():
            fill(target, rows, parts[key], tensors)

    def _held(self) -> Iterator[tuple[str, Tensor, tuple[int, int] | None]]:
        """(key without range, tensor, its rows in the whole) of all state on this rank."""
        for bucket in self.matrices:
            for key, tensor in bucket.state():
                yield key, tensor, None
        for table in self.tables:
            for key, tensor in table.own.state():
                yield key.split("[")[0], tensor, table.own.rows
            yield f"{table.name}/steps", table.own.steps, None
        for key, tensor in self.small.everywhere():
            yield key, tensor, None

    def _expected(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor of the whole state."""
        found: dict[str, tuple[int, ...]] = {}
        for name, shape in self.shapes.items():
            if self.roles[name] is Role.MATRIX:
                found[f"{name}/momentum"] = shape
                if self.plan.muon.normuon:
                    found[f"{name}/second"] = second_shape(1, *shape)[1:]
            else:
                found |= {f"{name}/exp_avg": shape, f"{name}/exp_avg_sq": shape, f"{name}/steps": ()}
        return found
