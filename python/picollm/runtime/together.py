"""One outcome for all ranks: what fails on one fails on every rank, in the same words, and hangs nobody."""

from collections.abc import Callable
from typing import Any, TypeVar

from picollm import errors
from picollm.errors import PicoError
from picollm.runtime.dist import World

T = TypeVar("T")


def on_rank_zero(world: World, action: Callable[[], T]) -> T:
    """Run `action` on rank 0; its JSON value, or its PicoError, reaches every rank."""
    if world.size == 1:
        return action()
    value: T = settle(world.broadcast(outcome(action) if world.rank == 0 else None))
    return value


def on_every_rank(world: World, action: Callable[[], T]) -> list[T]:
    """Run `action` on all ranks; their JSON values in rank order, or the PicoError of the first that failed."""
    if world.size == 1:
        return [action()]
    return [settle(result) for result in world.gather(outcome(action))]


def outcome(action: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"value": action()}
    except PicoError as error:
        kind = type(error).__name__
        return {"kind": kind, "message": error.message, "hint": error.hint, "code": error.exit_code}


def settle(result: dict[str, Any]) -> Any:
    """The value inside, or the error raised again."""
    if "value" in result:
        return result["value"]
    error = PicoError(result["message"], hint=result["hint"])
    kind = getattr(errors, result["kind"], PicoError)
    if isinstance(kind, type) and issubclass(kind, PicoError):
        error.__class__ = kind
    error.exit_code = result["code"]
    raise error
