"""Out of memory, said with what was needed and the smallest changes that fit."""

import contextlib
from collections.abc import Iterator

import torch

from picollm.errors import OutOfMemoryError
from picollm.plan.fit import out_of_memory
from picollm.plan.knobs import BY_NAME
from picollm.plan.memory import USABLE, Place
from picollm.plan.render import memory_parts
from picollm.plan.request import TrainRequest
from picollm.plan.trainplan import TrainPlan

REFUSED = ("can't allocate memory", "DefaultCPUAllocator", "out of memory")


@contextlib.contextmanager
def said_as_error(plan: TrainPlan) -> Iterator[None]:
    """Whatever an allocator refuses inside becomes an OutOfMemoryError (exit 5); other errors pass."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise refused(plan) from error
    except RuntimeError as error:
        if any(words in str(error) for words in REFUSED):
            raise refused(plan) from error
        raise


def refused(plan: TrainPlan) -> OutOfMemoryError:
    """E503. What was asked for did not fit, whatever the ledger said, so only what needs less is offered."""
    request = TrainRequest.from_json({name: value for name, value in plan.request.items() if name in BY_NAME})
    room = int((plan.memory.total - 1) / USABLE)
    if plan.memory.available:
        room = min(room, plan.memory.available)
    place = Place(plan.device, plan.dtype, plan.compile, room, plan.ranks, plan.recompute, plan.fp8)
    problem = out_of_memory(plan.model, request, place, plan.rows_per_step, plan.device_batch)
    there = f"{plan.memory.available / 2**30:.1f} GiB there" if plan.memory.available else "memory unknown"
    error = OutOfMemoryError(
        f"E503 out of memory at {plan.device_batch} rows per device: {memory_parts(plan.memory)}, {there}",
        hint=problem.hint,
    )
    if plan.device_batch > 1:
        total = {"grad_accum": None, "total_batch_size": plan.tokens_per_step}
        error.smaller = {"device_batch_size": plan.device_batch // 2, "name": plan.name, **total}
    return error
