"""One update: count what is asked, forward and backward, agree, apply."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from picollm.loader.batch import Batch
from picollm.plan.schedule import Rates
from picollm.train.guard import Verdict
from picollm.train.state import Parts


@dataclass(frozen=True)
class Outcome:
    """What a step found. `loss`: mean nats over all `n_valid` targets of the step, over all ranks and micro-batches.

    opt_ms: milliseconds of reduction, rules and exchange.
    """

    loss: float
    grad_norm: float
    n_valid: int
    verdict: Verdict
    opt_ms: float


def update(parts: Parts, batches: Sequence[Batch], rates: Rates) -> Outcome:
    """Train `parts` on the micro-batches of one step, and move it one step on.

    The gradient is that of the mean over all valid targets of the step, wherever they lie: ranks, micro-batches and
    masked slots carry no weight of their own. A step that is not finite, or spikes, changes nothing on any rank.
    """
    n_valid = count_valid(parts, batches)
    nats = torch.zeros((), dtype=torch.float64, device=parts.world.device)
    for batch in batches:
        loss_sum = parts.model(batch.inputs, batch.targets, batch.documents)
        (loss_sum / max(1, n_valid)).backward()
        nats += loss_sum.detach().double()
    loss = float(parts.world.sum_(nats)) / max(1, n_valid)
    start = time.perf_counter()
    parts.optimizer.reduce()
    grad_norm = float(parts.optimizer.grad_norm())
    verdict = agree(parts, parts.guard.judge(loss, grad_norm))
    if verdict is Verdict.APPLY and n_valid:
        parts.optimizer.step(rates, first=parts.updates == 0)
        parts.updates += 1
    parts.optimizer.zero_grad()
    parts.step += 1
    parts.session += 1
    parts.guard.note(verdict, loss, parts.step)
    if parts.guard.exhausted:
        parts.leaving = "diverged"
    return Outcome(loss, grad_norm, n_valid, verdict, 1000 * (time.perf_counter() - start))


def count_valid(parts: Parts, batches: Sequence[Batch]) -> int:
    """Targets to be learned in this step, over all ranks; known before the first backward."""
    own = sum(int((batch.targets >= 0).sum()) for batch in batches)
    return int(parts.world.sum_(torch.tensor(own, dtype=torch.int64, device=parts.world.device)))


VERDICTS = tuple(Verdict)  # the mildest first


def agree(parts: Parts, verdict: Verdict) -> Verdict:
    """One small reduction per step: the severest verdict of all ranks, and whether any wants to leave or save."""
    wishes = [parts.stop.asked(), parts.cap_reached, parts.save_due]
    own = torch.tensor([-VERDICTS.index(verdict), *(-int(wish) for wish in wishes)], device=parts.world.device)
    severest, asked, capped, save = (-int(value) for value in parts.world.min_(own))
    if asked or capped:
        parts.leaving = "signal" if asked else "stop-after"
    parts.save_due = bool(save)
    return VERDICTS[severest]
