"""Weights from a checkpoint folder into a model: names, shapes and dtypes compared before a byte is loaded."""

from pathlib import Path

import torch
from torch import Tensor

from picollm.ckpt.schema import MODEL, State, damaged
from picollm.ckpt.tensors import Tensors
from picollm.errors import CheckpointError, UsageError
from picollm.model.gpt import GPT
from picollm.model.init import stored_dtype
from picollm.model.roles import role_of
from picollm.runtime.precision import compute_dtype

DEVICES = ("cpu", "cuda", "mps")


def load_weights(model: GPT, state: State, path: Path) -> None:
    """Fill a built model from the checkpoint folder `path`, whose `state.json` is `state`."""
    with Tensors([path / MODEL]) as tensors:
        check_weights(tensors, model, state, path / MODEL)
        fill(model, tensors, path / MODEL)


def check_weights(tensors: Tensors, model: GPT, state: State, where: Path) -> None:
    """Names, shapes and dtypes in the header equal those of the model: before a byte is loaded or allocated."""
    expected = dict(model.named_parameters())
    if differ := set(tensors) ^ set(expected):
        raise damaged(where, f"{len(differ)} tensors are missing or unknown, such as {min(differ)}")
    for name, parameter in expected.items():
        wanted = tuple(parameter.shape), stored_in(state, name)
        if (found := (tensors.shape(name), tensors.dtype(name))) != wanted:
            raise damaged(where, f"{name} is {found}, the config wants {wanted}")


def stored_in(state: State, name: str) -> torch.dtype:
    """The dtype in which a checkpoint with this state holds the weight `name`."""
    if state.device not in DEVICES:
        raise CheckpointError(f"device {state.device!r} is not known")
    try:
        return stored_dtype(role_of(name), torch.device(state.device), compute_dtype(state.dtype))
    except UsageError as error:
        raise CheckpointError(error.message) from None


@torch.no_grad()
def fill(model: GPT, tensors: Tensors, where: Path) -> None:
    """Copy every weight; a value that is not finite is refused."""
    for name, parameter in model.named_parameters():
        value: Tensor = tensors[name]
        if not bool(torch.isfinite(value).all()):
            raise damaged(where, f"{name} holds values that are not finite")
        parameter.copy_(value)
