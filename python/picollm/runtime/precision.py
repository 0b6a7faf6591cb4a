"""In which number format the arithmetic runs. What is stored follows from it, by role (`model.init.stored_dtype`)."""

import torch

from picollm.errors import UsageError

# fp64 exists to prove the others right: no option offers it, a request made in code may name it.
COMPUTE = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}


def compute_dtype(name: str) -> torch.dtype:
    """The dtype of the residual stream and the matmuls for a plan's `dtype`. Raises UsageError for another word."""
    if name not in COMPUTE:
        raise UsageError(f"dtype {name!r} is not known", hint="fp32 or bf16")
    return COMPUTE[name]
