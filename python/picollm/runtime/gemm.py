"""The matmul rate of this machine's cores, as numpy gives it: what 100 % means where no vendor prints a figure."""

import time

import numpy as np

SIZE = 512  # large enough for the full rate, small enough that a first plan opens at once
BLOCKS = 5


def cpu_matmul_rate(size: int = SIZE, repeats: int = BLOCKS) -> float:
    """FLOP/s of the best of `repeats` fp32 matmuls of `size`³, all cores. About a twentieth of a second."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((size, size), dtype=np.float32) for _ in range(2))
    out = np.empty_like(a)
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        np.matmul(a, b, out=out)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best
