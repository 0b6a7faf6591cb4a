"""Whether a run trains in eight bits: on request, where the hardware can and, for `auto`, where it is likely to pay."""

from picollm.errors import UsageError
from picollm.model.config import ModelConfig
from picollm.model.counts import EIGHT_BIT_LEAST, EIGHT_BIT_MULTIPLE, eight_bit_layers
from picollm.plan.request import TrainRequest
from picollm.runtime.machine import Machine

SINCE = (8, 9)  # compute capability of the first tensor cores with e4m3: Ada and Hopper
PAYS_FROM = 20  # depth; smaller matmuls gain less than their scaling costs (nanochat LOG 2026-02-02, not re-measured)


def obstacle(machine: Machine, compiled: bool) -> str | None:
    """Why this machine cannot train in eight bits, or None."""
    if machine.device != "cuda":
        return f"fp8 needs an NVIDIA SM {SINCE[0]}{SINCE[1]}+ GPU; this is {machine.device}"
    if machine.capability is None or machine.capability < SINCE:
        have = "unknown" if machine.capability is None else "SM {}{}".format(*machine.capability)
        return f"fp8 needs an NVIDIA SM {SINCE[0]}{SINCE[1]}+ GPU; {machine.name} is {have}"
    if not compiled:
        return "fp8 needs --compile: eager, its scaling makes a step several times slower"
    return None


def rows_obstacle(config: ModelConfig) -> str | None:
    """Why rows of this length cannot be multiplied in eight bits, or None: their gradients sum over all tokens."""
    if config.seq_len % EIGHT_BIT_MULTIPLE:
        return f"fp8 needs rows of a multiple of {EIGHT_BIT_MULTIPLE} tokens; --max-seq-len is {config.seq_len}"
    return None


def wanted(request: TrainRequest, machine: Machine, compiled: bool, config: ModelConfig) -> bool:
    """What `--fp8` comes to. Raises UsageError (E302) where it was asked for and cannot be."""
    if request.fp8 in (None, "off"):
        return False
    why = obstacle(machine, compiled) or rows_obstacle(config)
    if request.fp8 == "auto":
        return why is None and config.depth >= PAYS_FROM
    if why is not None:
        raise UsageError(f"E302 {why}", hint="--fp8=auto uses it only where it helps")
    return True


def note(config: ModelConfig) -> str:
    """`fp8: 145 of 157 linear layers (12 skipped: smaller than 128); evaluation in bf16`"""
    converted, every = eight_bit_layers(config)
    return (
        f"fp8: {converted} of {every} linear layers ({every - converted} skipped: smaller than {EIGHT_BIT_LEAST}); "
        "evaluation in bf16"
    )
