"""Attention over rows laid end to end, with windows and documents: torch's own flash kernel; FA3, FA4 where installed.

Nothing is imported from outside torch until such a kernel is asked for. None of this runs on a CPU; what it computes is
checked on the machine it is used on (`choose`).
"""

import importlib
import inspect
from collections.abc import Callable

import torch
from torch import Tensor

from picollm.model.kernels.protocol import Documents

FLASH4 = "flash_attn.cute.interface"

# (q, k, v (B·T, heads, D), starts (N + 1) int32, longest, window or None) → (B·T, H, D)
Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, int, int | None], Tensor]


class Flattened:
    """Rows end to end: a kernel is told where each row or document starts. The number of starts never varies."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._starts: dict[tuple[int, int, torch.device], Tensor] = {}

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, window: int | None, documents: Documents | None = None
    ) -> Tensor:
        """See `Attend`."""
        B, T = q.shape[:2]
        starts = self._rows(B, T, q.device) if documents is None else documents.cu_seqlens()
        flat_q, flat_k, flat_v = (t.reshape(B * T, t.shape[2], t.shape[3]) for t in (q, k, v))
        return self.kernel(flat_q, flat_k, flat_v, starts, T, window).view(q.shape)

    def _rows(self, B: int, T: int, device: torch.device) -> Tensor:
        key = (B, T, device)
        if key not in self._starts:
            self._starts[key] = torch.arange(0, (B + 1) * T, T, dtype=torch.int32, device=device)
        return self._starts[key]


def sides(window: int | None) -> tuple[int, int]:
    """How flash kernels say causal: keys to the left (−1: all of them), none to the right."""
    return (-1 if window is None else window, 0)


class Varlen(Flattened):
    """`torch.nn.attention.varlen.varlen_attn`: FA2, forward and backward, from SM 80 on."""

    def __init__(self) -> None:
        varlen_attn = importlib.import_module("torch.nn.attention.varlen").varlen_attn
        shares = "enable_gqa" in inspect.signature(varlen_attn).parameters  # from torch 2.13 on

        def kernel(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int, window: int | None) -> Tensor:
            more = {}
            if k.shape[1] != q.shape[1]:
                if shares:
                    more = {"enable_gqa": True}
                else:
                    k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
            mixed: Tensor = varlen_attn(q, k, v, starts, starts, longest, longest, window_size=sides(window), **more)
            return mixed

        super().__init__(kernel)


class Flash3(Flattened):
    """`flash_attn_interface.flash_attn_varlen_func`: FA3, SM 90, not on the package index."""

    def __init__(self) -> None:
        flash = importlib.import_module("flash_attn_interface").flash_attn_varlen_func

        def kernel(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int, window: int | None) -> Tensor:
            mixed = flash(q, k, v, starts, starts, longest, longest, causal=True, window_size=sides(window))
            found: Tensor = mixed[0] if isinstance(mixed, tuple) else mixed
            return found

        super().__init__(kernel)


class Flash4(Flattened):
    """`flash_attn.cute.interface.flash_attn_varlen_func` of the package flash-attn-4: SM 90 and later.

    Called as its own function: through `torch.nn.attention.activate_flash_attention_impl` it would take the place of
    FA2 in the whole process, also for layers where FA2 has won.
    """

    def __init__(self) -> None:
        flash = importlib.import_module(FLASH4).flash_attn_varlen_func

        def kernel(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int, window: int | None) -> Tensor:
            more = {} if window is None else {"window_size": sides(window)}
            mixed = flash(q, k, v, cu_seqlens_q=starts, cu_seqlens_k=starts, max_seqlen_q=longest,
                          max_seqlen_k=longest, causal=True, **more)  # fmt: skip
            found: Tensor = mixed[0] if isinstance(mixed, tuple) else mixed
            return found

        super().__init__(kernel)
