import pytest

from picollm.errors import UsageError
from picollm.runtime.machine import Machine, parse_gpu, peak_of

NAMES = {
    "NVIDIA GB200": 2500,
    "NVIDIA B200": 2250,
    "NVIDIA B100": 1800,
    "NVIDIA H200": 989,
    "NVIDIA H100 NVL": 835,
    "NVIDIA H100 PCIe": 756,
    "NVIDIA H100 80GB HBM3": 989,
    "NVIDIA A100-SXM4-80GB": 312,
    "NVIDIA A40": 149.7,
    "NVIDIA A30": 165,
    "NVIDIA L40S": 362,
    "NVIDIA L4": 121,
    "NVIDIA GeForce RTX 5090": 209.5,
    "NVIDIA GeForce RTX 4090": 165.2,
    "NVIDIA GeForce RTX 3090": 71,
    "AMD Instinct MI355X": 2500,
    "AMD Instinct MI325X": 1307.4,
    "AMD Instinct MI300X": 1307.4,
    "AMD Instinct MI250X": 383,
    "rtx4090": 165.2,
}


@pytest.mark.parametrize(("name", "tflops"), NAMES.items())
def test_a_known_device_has_its_vendors_dense_rate(name: str, tflops: float) -> None:
    peak = peak_of(name)
    assert peak is not None
    assert peak.tflops == tflops


@pytest.mark.parametrize("name", ["NVIDIA RTX A4000", "NVIDIA L40", "NVIDIA GeForce RTX 4090 Laptop GPU", "Tesla T4"])
def test_a_name_that_only_looks_alike_has_no_rate(name: str) -> None:
    assert peak_of(name) is None
    assert Machine.gpus(name, 1, memory=2**33).peak_flops is None


def test_the_number_of_gpus_follows_the_colon() -> None:
    assert parse_gpu("h100:8") == ("h100", 8)
    assert parse_gpu("h100") == ("h100", 1)
    with pytest.raises(UsageError):
        parse_gpu("h100:none")
    with pytest.raises(UsageError, match="abacus"):
        Machine.gpus("abacus", 1)


def test_a_cpu_has_cores_and_memory() -> None:
    machine = Machine.cpu(4e10)
    assert machine.cores >= 1
    assert machine.memory > 2**28
    assert (machine.device, machine.peak_flops, machine.peak_source) == ("cpu", 4e10, "measured")
