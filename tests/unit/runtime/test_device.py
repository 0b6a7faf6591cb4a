import pytest
import torch

from picollm.errors import UsageError
from picollm.runtime import device
from picollm.runtime.precision import compute_dtype

CPU = torch.device("cpu")


def test_the_cpu_is_always_offered_and_an_absent_device_is_a_usage_error() -> None:
    assert device.choose("cpu") == "cpu"
    assert device.choose(None) == device.choose("auto")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="this machine offers"):
            device.choose("cuda")


def test_a_given_peak_replaces_the_known_one() -> None:
    machine = device.machine("cpu", 1e12)
    assert (machine.peak_flops, machine.peak_source) == (1e12, "given")
    assert device.machine("cpu").peak_flops is None


def test_the_measured_peak_is_a_rate_and_never_infinite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(device.MATMUL_SIZE, "cpu", 64)
    assert 0 < device.measured_peak(CPU, torch.float32) < 1e16


def test_memory_is_counted_in_bytes() -> None:
    assert device.peak_memory(CPU) > 50 << 20


def test_an_unknown_dtype_is_a_usage_error() -> None:
    assert compute_dtype("fp64") is torch.float64
    with pytest.raises(UsageError, match="fp16"):
        compute_dtype("fp16")
