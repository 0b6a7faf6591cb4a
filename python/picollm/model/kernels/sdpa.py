"""Attention by torch's scaled_dot_product_attention: runs anywhere, and is what other kernels are compared with."""

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from picollm.model.kernels.protocol import Documents, additive, visible


class Sdpa:
    """Plain causal layers take the fused causal path; windows and documents add a mask, made once per key."""

    def __init__(self) -> None:
        self._masks: dict[tuple[int, int, torch.device, torch.dtype], Tensor] = {}
        self.masks_made = 0

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, window: int | None, documents: Documents | None = None
    ) -> Tensor:
        """See `Attend`."""
        T = q.shape[1]
        if documents is not None:
            return attend(q, k, v, documents.mask(window, q.dtype))
        if window is None or window >= T - 1:
            return attend(q, k, v, None, causal=T > 1)
        return attend(q, k, v, self._mask(T, window, q.device, q.dtype))

    def _mask(self, T: int, window: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        key = (T, window, device, dtype)
        if key not in self._masks:
            places = torch.arange(T, device=device)
            self._masks[key] = additive(visible(places, places, window), dtype)
            self.masks_made += 1
        return self._masks[key]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, causal: bool = False) -> Tensor:
    """q (B, T, H, D); k, v (B, S, K, D); mask broadcast to (B, H, T, S), added to the scores → (B, T, H, D)."""
    mixed = scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=mask,
        is_causal=causal,
        enable_gqa=q.shape[2] != k.shape[2],
    )
    return mixed.transpose(1, 2)


class Fused:
    """Plain causal attention by one named kernel of torch; no windows, no documents."""

    takes_documents = False
    backend: SDPBackend

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, window: int | None, documents: Documents | None = None
    ) -> Tensor:
        """See `Attend`."""
        assert window is None or window >= q.shape[1] - 1
        assert documents is None
        with sdpa_kernel(self.backend):
            return attend(q, k, v, None, causal=q.shape[1] > 1)


class Cudnn(Fused):
    """cuDNN's, which is the faster one on Hopper."""

    backend = SDPBackend.CUDNN_ATTENTION


class Flash(Fused):
    """FlashAttention 2 as torch carries it."""

    backend = SDPBackend.FLASH_ATTENTION
