"""From a run or checkpoint folder to a model. Opening a stranger's folder may fail; it never runs code."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from picollm.ckpt import protocol
from picollm.ckpt.schema import CONFIG, MAX_CONFIG, MODEL, STATE, TOKENIZER, State, damaged
from picollm.ckpt.tensors import Tensors
from picollm.ckpt.weights import check_weights, fill
from picollm.errors import MissingError, TokenizerMismatch
from picollm.model.config import ModelConfig
from picollm.model.gpt import GPT
from picollm.model.init import stored_dtype
from picollm.model.roles import role_of
from picollm.tok.tokenizer import Tokenizer


@dataclass(frozen=True)
class Meta:
    """Where a model comes from. `state.stage`: `base` continues text, `sft` answers."""

    path: Path
    state: State

    @property
    def stage(self) -> str:
        return self.state.stage

    @property
    def step(self) -> int:
        return self.state.step


class Loaded(NamedTuple):
    """A model to use; unpacks as `model, config, tokenizer, meta`."""

    model: GPT
    config: ModelConfig
    tokenizer: Tokenizer
    meta: Meta


def find_checkpoint(path: Path) -> Path:
    """The checkpoint meant by a folder: itself, or the newest whole one of a run. Raises MissingError."""
    if (path / "MANIFEST.json").exists():
        return path
    warnings: list[str] = []
    found = protocol.newest(path / "checkpoints", warnings.append)
    if found is None:
        raise MissingError(f"{path}: no checkpoint here", hint="name a run, or a folder such as checkpoints/step-…")
    return found


def load_model(path: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Loaded:
    """The model of a run (its newest whole checkpoint) or of a checkpoint folder, in evaluation mode.

    `dtype` is that of the arithmetic. Only the files a model needs are hashed; the optimizer's are not read.
    Raises CheckpointError for anything that is not exactly what the config says, MissingError where nothing is.
    """
    found = find_checkpoint(path)
    manifest = protocol.verify(found, only=(CONFIG, MODEL, STATE, TOKENIZER))
    state = State.read(found / STATE)
    config = read_config(found / CONFIG)
    tokenizer = Tokenizer.load(found / TOKENIZER)
    if tokenizer.fingerprint != manifest.tokenizer or tokenizer.vocab_size != config.vocab_size:
        raise TokenizerMismatch(
            f"{found}: tokenizer {tokenizer.fingerprint} of {tokenizer.vocab_size:,} ids, the model was trained with "
            f"{manifest.tokenizer} of {config.vocab_size:,}"
        )
    with torch.device("meta"):
        model = GPT(config)
    place = torch.device(device)
    with Tensors([found / MODEL]) as tensors:
        check_weights(tensors, model, state, found / MODEL)
        model.to_empty(device=place)
        model.compute_dtype = dtype
        for name, parameter in model.named_parameters():
            parameter.data = parameter.data.to(stored_dtype(role_of(name), place, dtype))
        fill(model, tensors, found / MODEL)
    return Loaded(model.eval().requires_grad_(False), config, tokenizer, Meta(found, state))


def read_config(path: Path) -> ModelConfig:
    """`config.json`, its size bounded before it is read, its numbers before anything is built."""
    try:
        if path.stat().st_size > MAX_CONFIG:
            raise damaged(path, f"over {MAX_CONFIG:,} bytes")
        return ModelConfig.from_json(path.read_bytes())
    except RecursionError:
        raise damaged(path, "nested too deep") from None
