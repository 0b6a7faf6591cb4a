"""Which kernel is taken: wrong and crashing ones are found out in a process of their own."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from picollm.model.config import ModelConfig, shape
from picollm.model.kernels import choose as choosing
from picollm.model.kernels.choose import CANDIDATES, PLAIN, Candidate, Choice, choose
from picollm.model.kernels.protocol import Documents
from picollm.model.kernels.sdpa import Sdpa
from picollm.model.kernels.varlen import FLASH4, Flash4, Flattened

CPU, FP32 = torch.device("cpu"), torch.float32
HERE = "tests.unit.model.test_kernels"


class Narrow(Sdpa):
    """Wrong: its windows hold one key too few."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, window: int | None, documents: Documents | None = None
    ) -> Tensor:
        return super().__call__(q, k, v, window if window is None else window - 1, documents)


class Detached(Sdpa):
    """Right forward, wrong backward."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, window: int | None, documents: Documents | None = None
    ) -> Tensor:
        return super().__call__(q, k.detach() + 0 * k, v, window, documents)


class Crash(Sdpa):
    def __init__(self) -> None:
        import ctypes

        ctypes.string_at(0)  # a segmentation fault, as a kernel with an illegal access


class Leaky(Sdpa):
    """Documents see each other."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, window: int | None, documents: Documents | None = None
    ) -> Tensor:
        return super().__call__(q, k, v, window)


def candidate(name: str, *, windows: bool = True) -> Candidate:
    return Candidate(name, f"{HERE}:{name}", windows=windows)


@pytest.fixture
def config() -> ModelConfig:
    return shape(2, 256, 256, "SL", width=32, head_dim=16)


@pytest.mark.slow
def test_wrong_and_crashing_kernels_are_rejected_with_a_reason_and_verdicts_are_kept(
    config: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"python:{Path.cwd()}")
    candidates = [candidate("Narrow"), candidate("Crash", windows=False), PLAIN]
    choice = choose(config, CPU, FP32, tmp_path, candidates=candidates, rows=1)
    assert choice.winners["S"] == "sdpa"
    assert choice.winners["L"] in ("sdpa", "Narrow")  # whole rows it does right
    assert "Narrow: output" in choice.reasons["S"]
    assert "Crash: no windows" in choice.reasons["S"]
    assert "Crash: ended with status -11" in choice.reasons["L"]

    def never(trial: choosing.Trial) -> choosing.Verdict:
        raise AssertionError("a verdict was not kept")

    monkeypatch.setattr(choosing, "run", never)
    assert choose(config, CPU, FP32, tmp_path, candidates=candidates, rows=1) == choice


@pytest.mark.slow
@pytest.mark.parametrize(("name", "why"), [("Detached", "gradient of k"), ("Leaky", "with documents")])
def test_a_kernel_wrong_in_gradients_or_documents_only_is_rejected_too(name: str, why: str) -> None:
    trial = choosing.Trial(f"{HERE}:{name}", "cpu", "float32", 1, 64, 2, 2, 16, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"python:{Path.cwd()}")
        verdict = choosing.run(trial)
    assert verdict.ms is None
    assert why in str(verdict.error)


def test_a_kernel_that_hangs_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "PROBE_SECONDS", 0.01)
    verdict = choosing.run(choosing.Trial(PLAIN.maker, "cpu", "float32", 1, 64, 2, 2, 16, None))
    assert verdict.error == "no answer in 0.01 s"


def test_on_a_cpu_nothing_is_tried_and_the_reasons_say_what_the_others_need(
    config: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "run", lambda trial: pytest.fail("tried"))
    choice = choose(config, CPU, FP32, tmp_path)
    assert choice.winners == {"L": "sdpa", "S": "blocks"}
    assert choice.reasons["S"] == "a CPU's: no T x T mask"
    assert "varlen: needs CUDA" in choice.reasons["L"]
    assert "blocks: windows only" in choice.reasons["L"]
    assert list(tmp_path.iterdir()) == []
    assert Choice(**choice.to_json()) == choice
    q = torch.randn(1, 8, 2, 16)
    torch.testing.assert_close(choice.make()(q, q, q, 3), Sdpa()(q, q, q, 3))
    assert len(choice.lines()) == 2


def by_rows(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int, window: int | None) -> Tensor:
    """What a varlen kernel computes, one stretch at a time."""
    parts = [
        Sdpa()(q[None, a:b], k[None, a:b], v[None, a:b], window)[0]
        for a, b in zip(starts.tolist(), starts.tolist()[1:], strict=False)
        if b > a
    ]
    return torch.cat(parts)


@pytest.mark.parametrize("T", [1, 9, 33])
@pytest.mark.parametrize("window", [0, 7, 64, None])
@pytest.mark.parametrize("documented", [False, True])
def test_rows_laid_end_to_end_are_attention_within_rows_and_documents(
    T: int, window: int | None, documented: bool
) -> None:
    q, k, v = (torch.randn(2, T, heads, 8, generator=torch.Generator().manual_seed(heads)) for heads in (4, 2, 2))
    marks = Documents(torch.tensor([([0] * 10 + [1] * 30)[:T], [5] * T])) if documented else None
    found = Flattened(by_rows)(q, k, v, window, marks)
    torch.testing.assert_close(found, Sdpa()(q, k, v, window, marks))


@pytest.mark.parametrize("window", [7, None])
def test_fa4_is_told_of_rows_and_windows_in_its_own_words(window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def flash(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, **told: Any) -> tuple[Tensor, None]:
        assert causal
        assert (told["max_seqlen_q"], told["max_seqlen_k"], told["cu_seqlens_k"]) == (9, 9, told["cu_seqlens_q"])
        left, right = told.get("window_size", (None, 0))  # None: no bound, where FA2 says -1
        assert (left, right) == (window, 0)
        return by_rows(q, k, v, told["cu_seqlens_q"], told["max_seqlen_q"], left), None

    monkeypatch.setitem(sys.modules, FLASH4, SimpleNamespace(flash_attn_varlen_func=flash))
    q, k, v = torch.randn(3, 2, 9, 4, 8)
    torch.testing.assert_close(Flash4()(q, k, v, window), Sdpa()(q, k, v, window))


def test_the_starts_of_documents_have_one_length_in_every_batch_and_too_many_are_an_error() -> None:
    few, many = Documents(torch.zeros(2, 32, dtype=torch.int64)), Documents(torch.arange(32).expand(2, 32) // 8)
    assert few.cu_seqlens().shape == many.cu_seqlens().shape
    assert many.cu_seqlens().tolist() == [0, 8, 16, 24, 32, 40, 48, 56, 64, 64, 64]
    assert few.cu_seqlens().tolist() == [0, 32] + [64] * 9
    with pytest.raises(RuntimeError, match="documents"):
        Documents(torch.arange(32).expand(2, 32)).cu_seqlens()


def test_a_kernel_that_is_not_installed_is_never_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    (flash3,) = [one for one in CANDIDATES if one.name == "fa3"]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    assert flash3.obstacle("L", torch.device("cuda"), torch.bfloat16) == "flash_attn_interface is not installed"
    (flash4,) = [one for one in CANDIDATES if one.name == "fa4"]
    assert flash4.obstacle("S", torch.device("cuda"), torch.bfloat16) == "flash_attn.cute is not installed"
    (varlen,) = [one for one in CANDIDATES if one.name == "varlen"]
    assert varlen.obstacle("S", torch.device("cuda"), torch.bfloat16) is None
    assert varlen.obstacle("S", torch.device("cuda"), torch.float32) == "bf16 only"
