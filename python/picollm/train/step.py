"""One update: count what is asked, forward and backward, agree, apply."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from picollm.loader.batch import Batch
from picollm.plan.schedule import Rates
from picollm.runtime import failpoint
from picollm.train.guard import Verdict
from picollm.train.state import Parts

NAMED = 3  # tensors named in the log; NaN spreads backwards, so the last layers tell most


@dataclass(frozen=True)
class Outcome:
    """What a step found. `loss`: mean nats over all `n_valid` targets of the step, over all ranks and micro-batches.

    opt_ms: milliseconds of reduction, rules and exchange. fault: where a step that was not finite went wrong.
    """

    loss: float
    grad_norm: float
    n_valid: int
    verdict: Verdict
    opt_ms: float
    fault: "Fault | None" = None


@dataclass(frozen=True)
class Fault:
    """ranks: where a loss or gradient was not finite before they were summed. tensors: weights with such a gradient.

    repeats: the same rows at the same weights did it again; else a device or memory failed for a moment.
    """

    ranks: tuple[int, ...]
    tensors: tuple[str, ...]
    repeats: bool


def update(parts: Parts, batches: Sequence[Batch], rates: Rates) -> Outcome:
    """Train `parts` on the micro-batches of one step, and move it one step on.

    The gradient is that of the mean over all valid targets of the step, wherever they lie: ranks, micro-batches and
    masked slots carry no weight of their own. A step that is not finite, or spikes, changes nothing on any rank.
    """
    n_valid = count_valid(parts, batches)
    failpoint.reach("train.step")
    own, loss = forward_backward(parts, batches, n_valid)
    start = time.perf_counter()
    grad_norm = float(parts.optimizer.grad_norm())
    verdict = agree(parts, parts.guard.judge(loss, grad_norm))
    fault = None
    if verdict is Verdict.APPLY and n_valid:
        parts.optimizer.step(rates, first=parts.updates == 0)
        parts.updates += 1
    elif verdict is Verdict.SKIP_NONFINITE:
        fault = find_fault(parts, batches, n_valid, own)
    parts.optimizer.zero_grad()
    parts.step += 1
    parts.session += 1
    parts.guard.note(verdict, loss, parts.step)
    return Outcome(loss, grad_norm, n_valid, verdict, 1000 * (time.perf_counter() - start), fault)


def forward_backward(parts: Parts, batches: Sequence[Batch], n_valid: int) -> tuple[float, float]:
    """Gradients of the mean over `n_valid` targets. Returns this rank's sum in nats, and the mean over all ranks."""
    nats = torch.zeros((), dtype=torch.float64, device=parts.world.device)
    for batch in batches:
        loss_sum = parts.model(batch.inputs, batch.targets, batch.documents)
        (loss_sum / max(1, n_valid)).backward()
        nats += loss_sum.detach().double()
        del loss_sum  # its graph is small, but scattered: alive in the next forward it would keep the heap in pieces
    own = float(nats)
    return own, float(parts.world.sum_(nats)) / max(1, n_valid)


def find_fault(parts: Parts, batches: Sequence[Batch], n_valid: int, own: float) -> Fault:
    """Where numbers stopped being finite, found by looking at this step once more. All ranks call this."""
    names = parts.optimizer.not_finite()
    sound = math.isfinite(own) and not names
    found = parts.world.gather({"sound": sound, "names": names[:NAMED]})
    parts.optimizer.zero_grad()
    _, loss = forward_backward(parts, batches, n_valid)
    repeats = not (math.isfinite(loss) and math.isfinite(float(parts.optimizer.grad_norm())))
    tensors = tuple(dict.fromkeys(name for one in found for name in one["names"]))[:NAMED]
    return Fault(tuple(rank for rank, one in enumerate(found) if not one["sound"]), tensors, repeats)


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
