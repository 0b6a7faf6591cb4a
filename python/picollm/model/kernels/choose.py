"""Which attention kernel a machine gets: every candidate that could run is tried where it would work, once.

A candidate runs forward and backward in a process of its own, at the real sizes and dtype, is compared with plain
attention in fp32, and timed; wrong, crashing and hanging ones are rejected with the reason. The fastest that is right
wins. Verdicts are kept by device, driver and versions. With one candidate nothing is tried, and on a CPU one is taken
by rule: there a resumed run is promised the same bits, which a race of two kernels could not keep.
"""

import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from picollm.errors import PicoError
from picollm.model.config import ModelConfig
from picollm.model.kernels.protocol import Attend, Documents
from picollm.model.kernels.sdpa import Sdpa
from picollm.runtime import durable

PROBE_SECONDS = 120  # for one candidate, the import of torch included; one that takes longer hangs
PROBE_ROWS = 4
VERSION = 1  # of what a verdict means
KINDS = {"L": "whole rows", "S": "windows"}


@dataclass(frozen=True)
class Candidate:
    """A kernel by the place of its class. `since`: least compute capability. `package`: that must be installed."""

    name: str
    maker: str  # "module:Class"
    since: tuple[int, int] | None = None  # None: runs anywhere
    package: str | None = None
    windows: bool = True  # without a T × T mask
    whole: bool = True  # rows without a window
    device: str | None = None  # type of the only one it is for
    half: bool = False  # bf16 only

    def make(self) -> Attend:
        module, _, name = self.maker.partition(":")
        made: Attend = getattr(importlib.import_module(module), name)()
        return made

    def obstacle(self, kind: str, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why it need not even be tried, or None."""
        if kind == "S" and not self.windows:
            return "no windows"
        if kind == "L" and not self.whole:
            return "windows only"
        if self.device not in (None, device.type):
            return f"for a {str(self.device).upper()}"
        if self.since is not None:
            if device.type != "cuda":
                return "needs CUDA"
            if torch.cuda.get_device_capability(device) < self.since:
                return "needs SM {}{}+".format(*self.since)
        if self.half and dtype != torch.bfloat16:
            return "bf16 only"
        if self.package and not installed(self.package):
            return f"{self.package} is not installed"
        return None


def installed(package: str) -> bool:
    """Whether a module could be imported. To find out, the packages it lies in are."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


KERNELS = "picollm.model.kernels"
PLAIN = Candidate("sdpa", f"{KERNELS}.sdpa:Sdpa")
BLOCKS = Candidate("blocks", f"{KERNELS}.blocks:Blocks", whole=False, device="cpu")
CANDIDATES = (
    Candidate("fa3", f"{KERNELS}.varlen:Flash3", (9, 0), package="flash_attn_interface", half=True),
    Candidate("fa4", f"{KERNELS}.varlen:Flash4", (9, 0), package="flash_attn.cute", half=True),
    Candidate("varlen", f"{KERNELS}.varlen:Varlen", (8, 0), package="torch.nn.attention.varlen", half=True),
    Candidate("sdpa-cudnn", f"{KERNELS}.sdpa:Cudnn", (9, 0), windows=False, half=True),
    Candidate("sdpa-flash", f"{KERNELS}.sdpa:Flash", (8, 0), windows=False, half=True),
    BLOCKS,
    PLAIN,
)


@dataclass(frozen=True)
class Trial:
    """What a candidate is tried with: rows of T tokens, H query and K key heads of D channels, one window."""

    maker: str
    device: str
    dtype: str  # "bfloat16"
    rows: int
    seq_len: int
    heads: int
    kv_heads: int
    head_dim: int
    window: int | None
    compiled: bool = False


@dataclass(frozen=True)
class Verdict:
    """ms: forward and backward. error: why it is rejected."""

    ms: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Choice:
    """The winner of each kind of layer, by name, and why; plain values, so that ranks can share them."""

    winners: Mapping[str, str]
    reasons: Mapping[str, str] = field(default_factory=dict)

    def make(self, candidates: Sequence[Candidate] = CANDIDATES) -> Attend:
        """The kernels themselves."""
        makers = {candidate.name: candidate for candidate in candidates}
        made = {name: makers[name].make() for name in set(self.winners.values())}
        return ByKind(**{kind: made[name] for kind, name in self.winners.items()})

    def lines(self) -> list[str]:
        return [f"{KINDS[kind]}: {name} ({self.reasons[kind]})" for kind, name in self.winners.items()]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class ByKind:
    """One kernel for layers that see the whole row, one for windows; documents go to the latter or to masks."""

    def __init__(self, L: Attend, S: Attend | None = None) -> None:
        self.whole, self.windowed = L, S or L
        able = [kernel for kernel in (self.windowed, self.whole) if getattr(kernel, "takes_documents", True)]
        self.documented: Attend = able[0] if able else Sdpa()

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, window: int | None, documents: Documents | None = None
    ) -> Tensor:
        """See `Attend`."""
        if documents is not None:
            return self.documented(q, k, v, window, documents)
        kernel = self.whole if window is None or window >= q.shape[1] - 1 else self.windowed
        return kernel(q, k, v, window)


def choose(
    config: ModelConfig,
    device: torch.device,
    dtype: torch.dtype,
    cache: Path,
    *,
    compiled: bool = False,
    candidates: Sequence[Candidate] = CANDIDATES,
    rows: int = PROBE_ROWS,
) -> Choice:
    """The kernels for a model on a device. Verdicts are read from and kept under `cache`."""
    short = next((window for window in config.windows if window is not None and window < config.seq_len - 1), None)
    windows: dict[str, int | None] = {"L": None} if short is None else {"L": None, "S": short}
    winners, reasons = {}, {}
    for kind, window in windows.items():
        out = {one.name: one.obstacle(kind, device, dtype) for one in candidates}
        able = [one for one in candidates if out[one.name] is None]
        why = "; ".join(f"{name}: {text}" for name, text in out.items() if text)
        if BLOCKS in able:
            winners[kind], reasons[kind] = BLOCKS.name, "a CPU's: no T x T mask"
            continue
        if len(able) == 1:
            winners[kind], reasons[kind] = able[0].name, f"the only one here; {why}" if why else "the only one"
            continue
        sizes = (rows, config.seq_len, config.heads, config.kv_heads, config.head_dim, window)
        verdicts = {
            one.name: judged(Trial(one.maker, str(device), str(dtype)[6:], *sizes, compiled), one, cache)
            for one in able
        }
        right = {name: verdict.ms for name, verdict in verdicts.items() if verdict.ms is not None}
        winners[kind] = min(right, key=lambda name: right[name]) if right else PLAIN.name
        told = [f"{name}: {f'{v.ms:.2f} ms' if v.ms is not None else v.error}" for name, v in verdicts.items()]
        reasons[kind] = "; ".join([*told, why] if why else told)
    return Choice(winners, reasons)


def judged(trial: Trial, candidate: Candidate, cache: Path) -> Verdict:
    """The verdict kept for this trial on this machine, else a new one. A cache that cannot be written is no matter."""
    facts = {"v": VERSION, "trial": asdict(trial), "machine": machine(trial.device), "package": version_of(candidate)}
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]
    path = cache / "attention" / f"{name}.json"
    try:
        kept = durable.read_json(path)
        return Verdict(**kept["verdict"])
    except (PicoError, ValueError, KeyError, TypeError):
        pass  # none yet
    verdict = run(trial)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.write_json(path, {**facts, "verdict": asdict(verdict)})
    except (OSError, PicoError):
        pass  # it will be found again
    return verdict


def run(trial: Trial) -> Verdict:
    """Try it in a process of its own: an illegal access must not take the training with it."""
    command = [sys.executable, "-m", f"{KERNELS}.probe", json.dumps(asdict(trial))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return Verdict(error=f"no answer in {PROBE_SECONDS} s")
    try:
        return Verdict(**json.loads(done.stdout.splitlines()[-1]))
    except (ValueError, IndexError, TypeError):
        last = (done.stderr.strip().splitlines() or ["said nothing"])[-1]
        return Verdict(error=f"ended with status {done.returncode}: {last[:200]}")


def machine(device: str) -> list[str]:
    """What a verdict depends on beside the sizes."""
    facts = [torch.__version__, str(torch.version.cuda)]
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        facts += [properties.name, str(torch.cuda.get_device_capability(device)), driver()]
    return facts


def driver() -> str:
    """The kernel driver's version line, or nothing where it cannot be read."""
    try:
        return Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except (OSError, IndexError):
        return ""


def version_of(candidate: Candidate) -> str:
    if candidate.package is None or candidate.package.startswith("torch"):
        return ""
    try:
        return importlib.metadata.version(candidate.package)
    except importlib.metadata.PackageNotFoundError:
        spec = importlib.util.find_spec(candidate.package)
        return str(spec.origin) if spec else ""
