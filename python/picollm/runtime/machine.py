"""What a machine offers, as plain values: devices, memory, cores, peak rate. No torch.

Peak rates are dense bf16 figures of the vendors' data sheets (training specification 9), memory in GiB as the
driver shows it for the largest usual model of that name.
"""

import os
import re
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from picollm.errors import UsageError

TERA, GIB = 10**12, 2**30


@dataclass(frozen=True)
class Peak:
    """A device's dense bf16 rate and memory. `words` must all occur in its name."""

    words: frozenset[str]
    tflops: float
    gib: int
    capability: tuple[int, int] | None  # None: not NVIDIA


def _row(words: str, tflops: float, gib: int, capability: tuple[int, int] | None) -> Peak:
    return Peak(frozenset(words.split()), tflops, gib, capability)


# Most specific first. NVIDIA and AMD data sheets, dense, without sparsity.
PEAKS = (
    _row("gb200", 2500, 184, (10, 0)),
    _row("b200", 2250, 178, (10, 0)),
    _row("b100", 1800, 178, (10, 0)),
    _row("h200", 989, 140, (9, 0)),
    _row("h100 nvl", 835, 93, (9, 0)),
    _row("h100 pcie", 756, 79, (9, 0)),
    _row("h100", 989, 79, (9, 0)),
    _row("a100", 312, 79, (8, 0)),
    _row("a40", 149.7, 44, (8, 6)),
    _row("a30", 165, 23, (8, 0)),
    _row("l40s", 362, 44, (8, 9)),
    _row("l4", 121, 22, (8, 9)),
    _row("5090", 209.5, 31, (12, 0)),
    _row("4090", 165.2, 23, (8, 9)),
    _row("3090", 71, 23, (8, 6)),
    _row("mi355x", 2500, 287, None),
    _row("mi325x", 1307.4, 255, None),
    _row("mi300x", 1307.4, 191, None),
    _row("mi250x", 383, 63, None),
)


def peak_of(name: str) -> Peak | None:
    """The table's row for a device name, or None. Words, not parts: an A4000 is no A40, a laptop's 4090 no 4090."""
    words = set(re.findall(r"[a-z0-9]+", name.lower().replace("rtx", "rtx ")))
    if "laptop" in words or "max" in words:  # other chips under the same number
        return None
    return next((peak for peak in PEAKS if peak.words <= words), None)


@dataclass(frozen=True)
class Machine:
    """`memory` bytes and `peak_flops` FLOP/s are per device (None: unknown); `count` devices are seen."""

    device: str  # "cuda", "mps" or "cpu"
    name: str
    count: int
    memory: int
    cores: int
    peak_flops: float | None = None
    peak_source: str = "unknown"
    capability: tuple[int, int] | None = None

    @classmethod
    def gpus(cls, name: str, count: int, memory: int | None = None, cores: int | None = None) -> Self:
        """CUDA devices of one kind, by the name the driver gives. `memory` unsaid: the table's."""
        peak = peak_of(name)
        if memory is None:
            if peak is None:
                raise UsageError(f"no figures for a GPU called {name!r}", hint="known: " + known_gpus())
            memory = peak.gib * GIB
        return cls(
            device="cuda",
            name=name,
            count=count,
            memory=memory,
            cores=cores or usable_cores(),
            peak_flops=peak.tflops * TERA if peak else None,
            peak_source="vendor, dense bf16" if peak else "unknown",
            capability=peak.capability if peak else None,
        )

    @classmethod
    def cpu(cls, peak_flops: float | None = None) -> Self:
        """This machine without accelerators. `peak_flops` is a measured matmul rate of all cores."""
        cores = usable_cores()
        source = "measured" if peak_flops else "unknown"
        return cls("cpu", f"{cores} CPU cores", 1, usable_memory(), cores, peak_flops, source)

    def with_peak(self, flops: float, source: str) -> Self:
        return replace(self, peak_flops=flops, peak_source=source)


def parse_gpu(text: str) -> tuple[str, int]:
    """`h100:8` → ("h100", 8); `h100` → ("h100", 1)."""
    name, _, count = text.partition(":")
    if count and (not count.isdecimal() or int(count) < 1):
        raise UsageError(f"{text!r}: after the colon stands the number of GPUs", hint="--gpu h100:8")
    return name, int(count or 1)


def known_gpus() -> str:
    return ", ".join("-".join(sorted(peak.words)) for peak in PEAKS)


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_memory() -> int:
    """Bytes of memory this process may use: the machine's, or less where a control group says so."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = Path(path)
        if limit.is_file() and (text := limit.read_text().strip()).isdecimal():
            total = min(total, int(text))
    return total


def nvidia_smi() -> Machine | None:
    """The NVIDIA devices the driver's own tool lists, or None. The trainer asks torch instead."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    rows = [line.rsplit(",", 1) for line in answer.splitlines() if "," in line]
    if not rows or not all(memory.strip().isdecimal() for _, memory in rows):
        return None
    smallest = min(int(memory) for _, memory in rows)
    return Machine.gpus(rows[0][0].strip(), len(rows), smallest * 2**20)
