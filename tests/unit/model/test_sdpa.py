"""Windows and documents on the kernels that run anywhere, over the whole grid, against sums over visible keys."""

import pytest
import torch
from torch import Tensor

from picollm.model.kernels.blocks import Blocks
from picollm.model.kernels.protocol import Attend, Documents
from picollm.model.kernels.sdpa import Sdpa

B, H, D = 2, 4, 8


def by_the_book(q: Tensor, k: Tensor, v: Tensor, window: int | None, documents: Tensor | None) -> Tensor:
    """(B, T, H, D) with every pair of places written out."""
    T, shared = q.shape[1], q.shape[2] // k.shape[2]
    k, v = (t.repeat_interleave(shared, 2) for t in (k, v))
    scores = torch.einsum("bthd,bshd->bhts", q, k) / D**0.5
    for i in range(T):
        for j in range(T):
            if j > i or (window is not None and i - j > window):
                scores[:, :, i, j] = float("-inf")
            elif documents is not None:
                other = documents[:, i] != documents[:, j]
                scores[:, :, i, j] = scores[:, :, i, j].masked_fill(other[:, None], float("-inf"))
    return torch.einsum("bhts,bshd->bthd", scores.softmax(-1), v)


def qkv(T: int, K: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(T)
    return [torch.randn(B, T, heads, D, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
            for heads in (H, K, K)]  # fmt: skip


MIXED = [0] * 3 + [1] + [2] * 40
KERNELS = pytest.mark.parametrize("kernel", [Sdpa(), Blocks()], ids=["sdpa", "blocks"])


@KERNELS
@pytest.mark.parametrize("T", [1, 9, 33])
@pytest.mark.parametrize("window", [0, 1, 7, -1, 64, None])
@pytest.mark.parametrize("documents", ["none", "alone", "mixed"])
@pytest.mark.parametrize("K", [4, 2, 1])
def test_output_and_gradients_are_those_of_the_book(
    kernel: Attend, T: int, window: int | None, documents: str, K: int
) -> None:
    window = T - 1 if window == -1 else window
    runs = {"none": None, "alone": torch.arange(T).expand(B, T), "mixed": torch.tensor([MIXED[:T], [5] * T])}[documents]
    inputs = qkv(T, K, torch.float32)
    upstream = torch.randn(B, T, H, D, generator=torch.Generator().manual_seed(1))
    expected = by_the_book(*inputs, window, runs)
    found = kernel(*inputs, window, None if runs is None else Documents(runs))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(*(torch.autograd.grad(x, inputs, upstream) for x in (found, expected)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("T", [127, 128, 129, 300])
@pytest.mark.parametrize("window", [0, 1, 100, 128, 255, None])
@pytest.mark.parametrize("documented", [False, True])
def test_many_blocks_are_one_mask(T: int, window: int | None, documented: bool) -> None:
    inputs = qkv(T, 2, torch.float64)
    marks = Documents((torch.arange(T) // 37).expand(B, T)) if documented else None
    upstream = torch.randn(B, T, H, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, wanted = Blocks()(*inputs, window, marks), Sdpa()(*inputs, window, marks)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(*(torch.autograd.grad(x, inputs, upstream) for x in (found, wanted)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside torch's compiler
def test_compiled_blocks_are_one_graph_and_agree() -> None:
    inputs = qkv(300, 4, torch.float32)
    called = torch.compile(Blocks(), fullgraph=True, dynamic=False)
    found, wanted = called(*inputs, 100), Sdpa()(*inputs, 100)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(*(torch.autograd.grad(x.square().sum(), inputs) for x in (found, wanted)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@KERNELS
@pytest.mark.parametrize("window", [7, None])
def test_bf16_is_within_two_hundredths(kernel: Attend, window: int | None) -> None:
    exact, rough = qkv(33, 4, torch.float32), qkv(33, 4, torch.bfloat16)
    found = kernel(*rough, window).float()
    torch.testing.assert_close(found, by_the_book(*exact, window, None), rtol=2e-2, atol=2e-2)


def test_a_mask_is_made_once_per_window_and_length() -> None:
    kernel, inputs = Sdpa(), qkv(33, 4, torch.float32)
    for _ in range(3):
        for window in (4, 8, 32, None):
            kernel(*inputs, window)
    assert kernel.masks_made == 2


def test_document_numbers_may_come_back() -> None:
    marks = Documents(torch.tensor([[3, 3, 1, 3]]))
    assert marks.starts().tolist() == [[True, False, True, True]]
    assert marks.mask(None, torch.float32)[0, 0, 3].tolist() == [float("-inf")] * 3 + [0]
