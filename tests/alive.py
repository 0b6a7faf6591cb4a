"""A small model whose weights are all alive: an untrained one says the same to every prompt."""

import torch

from picollm.model.config import shape
from picollm.model.gpt import GPT
from picollm.model.init import build


def alive(vocab_size: int, seq_len: int, window_pattern: str) -> GPT:
    """Two layers, the same weights each time."""
    made = build(shape(2, vocab_size, seq_len, window_pattern), seed=3, device="cpu")
    noise = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(torch.randn(weight.shape, generator=noise) * 0.2)
    return made.eval()
