"""One trial of one kernel, in this process: `python -m picollm.model.kernels.probe JSON` prints a verdict as JSON."""

import importlib
import json
import math
import sys
import time
from typing import Any

import torch
from torch import Tensor

from picollm.model.kernels.protocol import Attend, Documents, additive, visible
from picollm.model.kernels.sdpa import attend

# Relative, Frobenius. One key too many or too few in a window of W is about 1/√W away: 0.044 at 512.
OUTPUT_BOUND = {torch.bfloat16: 1e-2, torch.float32: 1e-5}
GRADIENT_BOUND = {torch.bfloat16: 2e-2, torch.float32: 1e-4}
WARM, TIMED = 3, 10


def plain(q: Tensor, k: Tensor, v: Tensor, window: int | None, documents: Documents | None) -> Tensor:
    """Attention with a mask, in fp32."""
    q, k, v = (t.float() for t in (q, k, v))
    if documents is not None:
        return attend(q, k, v, documents.mask(window, q.dtype))
    places = torch.arange(q.shape[1], device=q.device)
    return attend(q, k, v, additive(visible(places, places, window), q.dtype))


def far(found: Tensor, wanted: Tensor) -> float:
    """Relative distance; NaN counts as infinitely far."""
    distance = float((found.double() - wanted.double()).norm() / wanted.double().norm().clamp(min=1e-30))
    return math.inf if math.isnan(distance) else distance


def check(kernel: Attend, inputs: list[Tensor], window: int | None, documents: Documents | None) -> str | None:
    """What is wrong with output or gradients, or None."""
    upstream = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1)).to(inputs[0])
    q, k, v = inputs
    found, wanted = kernel(q, k, v, window, documents), plain(q, k, v, window, documents)
    dtype = inputs[0].dtype
    if (distance := far(found, wanted)) > OUTPUT_BOUND[dtype]:
        return f"output {distance:.1e} away from plain attention{' with documents' * (documents is not None)}"
    mine = torch.autograd.grad(found, inputs, upstream)
    theirs = torch.autograd.grad(wanted, inputs, upstream.float())
    for name, one, other in zip("qkv", mine, theirs, strict=True):
        if (distance := far(one, other)) > GRADIENT_BOUND[dtype]:
            return f"gradient of {name} {distance:.1e} away from plain attention"
    return None


def document_marks(rows: int, seq_len: int, device: torch.device) -> Documents:
    """Documents of many lengths, another split in each row."""
    places = torch.arange(seq_len)
    marks = torch.stack([torch.searchsorted(torch.arange(7 + row, seq_len, 41 + row), places) for row in range(rows)])
    return Documents(marks.to(device))


def milliseconds(kernel: Attend, inputs: list[Tensor], window: int | None) -> float:
    """Forward and backward, median of a few."""
    device = inputs[0].device
    seconds = []
    q, k, v = inputs
    for _ in range(WARM + TIMED):
        start = time.perf_counter()
        out = kernel(q, k, v, window)
        torch.autograd.grad(out, inputs, torch.ones_like(out))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 1000 * sorted(seconds[WARM:])[TIMED // 2]


def tried(trial: dict[str, Any]) -> dict[str, Any]:
    module, _, name = trial["maker"].partition(":")
    kernel: Attend = getattr(importlib.import_module(module), name)()
    device, dtype = torch.device(trial["device"]), getattr(torch, trial["dtype"])
    rows, T, D, window = trial["rows"], trial["seq_len"], trial["head_dim"], trial["window"]
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(rows, T, heads, D, generator=generator).to(device, dtype).requires_grad_()
        for heads in (trial["heads"], trial["kv_heads"], trial["kv_heads"])
    ]
    if error := check(kernel, inputs, window, None):
        return {"error": error}
    if getattr(kernel, "takes_documents", True) and (
        error := check(kernel, inputs, window, document_marks(rows, T, device))
    ):
        return {"error": error}
    called = torch.compile(kernel, fullgraph=True, dynamic=False) if trial["compiled"] else kernel
    return {"ms": round(milliseconds(called, inputs, window), 4)}


def main() -> None:
    trial = json.loads(sys.argv[1])
    try:
        verdict = tried(trial)
    except Exception as error:  # noqa: BLE001 - whatever a foreign kernel raises is the verdict
        first = (str(error).strip().splitlines() or [""])[0]
        verdict = {"error": f"{type(error).__name__}: {first[:200]}"}
    print(json.dumps(verdict))


if __name__ == "__main__":
    main()
