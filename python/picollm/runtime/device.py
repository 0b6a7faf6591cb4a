"""Which machine this is, by torch's word, and how to ask its devices for what a log wants to know."""

import resource
import sys
import time

import torch

from picollm.errors import UsageError
from picollm.runtime.machine import Machine

MATMUL_TRIES = 20
MATMUL_SIZE = {"cpu": 768, "cuda": 8192, "mps": 4096}  # large enough to hide the launch, small enough for a second


def choose(asked: str | None) -> str:
    """`cuda`, `mps` or `cpu`: what was asked for, else the best there is. Raises UsageError for one that is absent."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if asked in (None, "auto"):
        return next(name for name, here in present.items() if here)
    assert asked is not None
    if not present.get(asked, False):
        offered = ", ".join(name for name, here in present.items() if here)
        raise UsageError(f"--device {asked}: this machine offers {offered}", hint="--device auto")
    return asked


def machine(device: str, peak_flops: float | None = None) -> Machine:
    """The devices of one kind. `peak_flops` per device replaces the table's or the measured figure."""
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found = Machine.gpus(properties.name, torch.cuda.device_count(), properties.total_memory)
    else:
        found = Machine.cpu()
    return found.with_peak(peak_flops, "given") if peak_flops else found


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the best of 20 square matmuls: what 100 % means where no data sheet says it."""
    size = MATMUL_SIZE[device.type]
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(size, size, generator=generator).to(device, dtype)
    best = float("inf")
    for _ in range(MATMUL_TRIES):
        synchronise(device)
        start = time.perf_counter()
        a @ a
        synchronise(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def synchronise(device: torch.device) -> None:
    """Wait for the device's queue; nothing to wait for on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory(device: torch.device) -> int:
    """Most bytes this process has held: on the device, or resident in memory on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts kilobytes on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def settle(device: torch.device) -> None:
    """Make equal inputs give equal bits where that costs nothing (CPU); CUDA keeps its fast, unordered kernels."""
    # Not use_deterministic_algorithms: that imports the compiler, seconds and 150 MiB that an eager run never needs.
    torch.set_deterministic_debug_mode("error" if device.type == "cpu" else "default")
