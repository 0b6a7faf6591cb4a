"""What this machine and this installation can do, one finding each. torch is asked only where it is handed in."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from picollm.cli.places import free_bytes
from picollm.layout import Layout, cache_dir
from picollm.plan.warnings import BF16_SINCE
from picollm.runtime.machine import Machine, usable_cores, usable_memory

OURS = "picollm-train"
GB = 10**9
LEAST_DISK = 5 * GB  # less will not hold a shard set and a few checkpoints of a small model
ENDPOINT = "https://huggingface.co"
HUB_SECONDS = 5.0
CUDA_TORCH = "pip install torch --index-url https://download.pytorch.org/whl/cu128"
HUB_VARIABLES = ("HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS")
FITNESS = {
    "cuda": "training",
    "mps": "small models",
    "cpu": "correctness and tiny demos",
}


@dataclass(frozen=True)
class Check:
    """One finding. `state`: "ok", "warn" or "fail"; `fix`: the next step where it is not ok."""

    name: str
    state: str
    text: str
    fix: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"state": self.state, "text": self.text, **({"fix": self.fix} if self.fix else {}), **self.facts}


def installation(distributions: Iterable[importlib.metadata.Distribution], imported: Path) -> Check:
    """Who owns the package that was imported. PyPI's `picollm` is another project's and brings the same folder."""
    owners = {}
    for distribution in distributions:
        files = distribution.files or []
        name = distribution.metadata["Name"]
        if name and any(file.as_posix() == "picollm/__init__.py" for file in files):
            owners[name.lower()] = str(distribution.version)
    facts = {"package": str(imported), "owners": owners}
    others = sorted(set(owners) - {OURS})
    if others:
        fix = f"pip uninstall -y {' '.join(others)} {OURS} && pip install {OURS}"
        text = f"{', '.join(others)} owns the import package picollm too: files of two projects are mixed"
        return Check("install", "fail", text, fix, facts)
    owned = f"{OURS} {owners[OURS]}" if owners else "source tree, not installed"
    return Check("install", "ok", f"{owned}, {imported}", facts=facts)


def extension() -> Check:
    """The compiled half."""
    if importlib.util.find_spec("picollm._rustbpe") is None:
        fix = f"pip install --force-reinstall {OURS}; in a checkout: just build"
        return Check("extension", "fail", "picollm._rustbpe is missing: nothing can be tokenized", fix)
    return Check("extension", "ok", "picollm._rustbpe is there")


def device(torch: ModuleType, asked: str | None) -> Check:
    """Which device training would use, why, and what that is good for (K37)."""
    cuda, mps = bool(torch.cuda.is_available()), bool(torch.backends.mps.is_available())
    kind = asked if asked not in (None, "auto") else "cuda" if cuda else "mps" if mps else "cpu"
    assert kind is not None
    if asked == kind:
        reason = "asked for"
    else:
        reason = {"cuda": "CUDA is there", "mps": "no CUDA, MPS is there", "cpu": "no CUDA, no MPS"}[kind]
    facts: dict[str, Any] = {"type": kind, "reason": reason, "fit": FITNESS[kind], "torch": str(torch.__version__)}
    built = torch.version.cuda
    facts["torch_cuda"] = built
    name = f"{usable_cores()} cores, {usable_memory() / GB:.1f} GB of memory"
    if kind == "cuda":
        count, first = torch.cuda.device_count(), torch.cuda.get_device_properties(0)
        facts |= {"count": count, "name": first.name, "memory": first.total_memory}
        facts["capability"] = [first.major, first.minor]
        name = f"{count} x {first.name}, SM {first.major}{first.minor}, {first.total_memory / GB:.1f} GB each"
    else:
        facts |= {"count": 1, "name": name, "memory": usable_memory(), "capability": None}
    text = f"{kind} ({reason}): {name}; fit for {FITNESS[kind]}; torch {torch.__version__}"
    hidden = kind == "cpu" and built is None and shutil.which("nvidia-smi") is not None
    fix = CUDA_TORCH if hidden else ""
    return Check(
        "device", "warn" if hidden else "ok", text + ("; this torch has no CUDA" if hidden else ""), fix, facts
    )


def dtype(found: Check, environment: Mapping[str, str]) -> Check:
    """The number format of the arithmetic, and why (K34)."""
    if said := environment.get("PICOLLM_DTYPE", "").replace("auto", ""):
        known = said in ("fp32", "bf16")
        fix = "" if known else "PICOLLM_DTYPE=fp32 or bf16"
        facts = {"value": said, "reason": "set by PICOLLM_DTYPE"}
        return Check("compute dtype", "ok" if known else "fail", f"{said} (set by PICOLLM_DTYPE)", fix, facts)
    kind, capability = found.facts["type"], found.facts["capability"]
    if kind != "cuda":
        value, reason = "fp32", "no CUDA"
    else:
        value = "bf16" if tuple(capability) >= BF16_SINCE else "fp32"
        reason = f"CUDA SM {capability[0]}{capability[1]}"
    return Check("compute dtype", "ok", f"{value} ({reason})", facts={"value": value, "reason": reason})


def compiler(kind: str) -> Check:
    """Whether torch.compile can work: Triton on CUDA, a C++ compiler on a CPU (W304)."""
    if kind == "cuda":
        there, what = importlib.util.find_spec("triton") is not None, "Triton"
    else:
        there, what = any(shutil.which(name) for name in ("c++", "g++", "clang++")), "a C++ compiler"
    default = "on" if kind == "cuda" and there else "off"
    facts = {"available": there, "default": default}
    if there:
        return Check("compile", "ok", f"available ({what}); default here: {default}", facts=facts)
    text = f"W304 torch.compile unavailable (no {what}): running eager"
    state = "warn" if kind == "cuda" else "ok"
    return Check("compile", state, text if kind == "cuda" else f"off (no {what}; not used by default here)",
                 "pip install triton" if kind == "cuda" else "", facts)  # fmt: skip


def attention(kind: str) -> Check:
    """How attention runs here. The plan never depends on it."""
    import torch

    from picollm.model.kernels.choose import CANDIDATES

    device = torch.device(kind)
    out = {one.name: one.obstacle("S", device, torch.bfloat16) for one in CANDIDATES}
    fast = [name for name, why in out.items() if why is None and name != "sdpa"]
    windows = " or ".join(fast) if fast else "masked full attention (W301)"
    missing = "; ".join(f"{name}: {why}" for name, why in out.items() if why)
    text = f"SDPA; sliding windows as {windows}" + (f" ({missing})" if missing else "")
    facts = {"backend": "sdpa", "windows": windows, "device": kind, "missing": missing}
    return Check("attention", "ok", text, facts=facts)


def disk(layout: Layout) -> Check:
    """Room where tokenizers, shards and runs will lie, and where downloads will."""
    free = {str(folder): free_bytes(folder) for folder in (layout.root, cache_dir())}
    least = min(free.values())
    text = "; ".join(f"{path}: {count / GB:,.1f} GB free" for path, count in free.items())
    facts = {"root": str(layout.root.absolute()), "cache": str(cache_dir()), "free": free}
    fix = "PICOLLM_HOME and PICOLLM_CACHE name other places" if least < LEAST_DISK else ""
    return Check("disk", "warn" if fix else "ok", text, fix, facts)


def hub(environment: Mapping[str, str], online: bool) -> Check:
    """The Hub's settings; reached over the network only when asked."""
    facts: dict[str, Any] = {name: environment[name] for name in HUB_VARIABLES if name in environment}
    facts["HF_TOKEN"] = "set" if environment.get("HF_TOKEN") else "unset"
    if environment.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):
        return Check("hub", "ok", "offline (HF_HUB_OFFLINE)", facts=facts | {"reached": None})
    if not online:
        text = f"not asked (--online does); token {facts['HF_TOKEN']}"
        return Check("hub", "ok", text, facts=facts | {"reached": None})
    address = environment.get("HF_ENDPOINT", ENDPOINT).rstrip("/")
    problem = unreachable(address)
    if problem is None:
        return Check("hub", "ok", f"{address} answers; token {facts['HF_TOKEN']}", facts=facts | {"reached": True})
    fix = "everything works offline with --dataset-name stdlib; HF_ENDPOINT names a mirror"
    return Check("hub", "warn", f"{address}: {problem}", fix, facts | {"reached": False})


def unreachable(address: str) -> str | None:
    """Why this server cannot be reached, or None."""
    if not address.startswith(("http://", "https://")):
        return "not an address of the web"
    request = urllib.request.Request(address, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=HUB_SECONDS):
            return None
    except urllib.error.HTTPError:
        return None  # it answered
    except (OSError, ValueError) as error:
        return str(error)


def environment_of(environment: Mapping[str, str]) -> Check:
    """The variables that change what commands do."""
    said = {name: value for name, value in sorted(environment.items()) if name.startswith("PICOLLM_")}
    text = ", ".join(f"{name}={value}" for name, value in said.items()) or "no PICOLLM_ variable is set"
    return Check("environment", "ok", text, facts={"variables": said})


def system(machine: Machine) -> Check:
    """Interpreter, processor, memory."""
    text = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    text += f" ({machine.cores} usable), {machine.memory / GB:.1f} GB usable"
    facts = {"python": platform.python_version(), "system": platform.system(), "machine": platform.machine()}
    return Check("system", "ok", text, facts={**facts, "cores": machine.cores, "memory": machine.memory})
