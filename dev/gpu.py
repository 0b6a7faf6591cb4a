"""Time and measure training steps on this machine, one setting after another: what a session with a GPU runs first.

    python dev/gpu.py                       # d12, V 32,768, T 2,048: dtypes, attention kernels, whole or chunked loss
    python dev/gpu.py --depth 24 --only fp8
    python dev/gpu.py --tiny                # the same road on a CPU, in seconds

Each setting runs in a process of its own: tokens/s (median), MFU, peak memory beside the plan's figure, one JSON line
on stdout and all of them in --out. A setting that cannot run here is reported with its reason.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from picollm.errors import PicoError
from picollm.layout import cache_dir
from picollm.model import fp8, loss
from picollm.model.counts import flops_per_token, flops_per_token_causal
from picollm.model.init import build
from picollm.model.kernels.choose import CANDIDATES, PLAIN, ByKind, choose
from picollm.model.roles import roles
from picollm.optim.sharded import Optimizer
from picollm.plan.request import TrainRequest
from picollm.plan.resolve import resolve
from picollm.plan.schedule import rates_at
from picollm.runtime import device as devices
from picollm.runtime.dist import World
from picollm.runtime.precision import compute_dtype

GIVE_UP_SECONDS = 540


@dataclass(frozen=True)
class Setting:
    """One row of the table. attention: a kernel's name, or `chosen` by the probe. chunked: the loss over chunks."""

    name: str
    depth: int
    vocab: int
    seq_len: int
    rows: int
    device: str
    fp8: bool = False
    compile: bool = True
    attention: str = "chosen"
    chunked: bool = True
    warm: int = 5
    steps: int = 20


def settings(said: argparse.Namespace) -> list[Setting]:
    """The table: a base and what is changed in it, one thing at a time."""
    base = Setting("bf16", said.depth, said.vocab, said.seq_len, said.rows, said.device, warm=said.warm,
                   steps=said.steps, compile=said.device == "cuda")  # fmt: skip
    table = [
        base,
        replace(base, name="fp8", fp8=True),
        replace(base, name="whole-loss", chunked=False),
        replace(base, name="eager", compile=False),
    ]
    table += [replace(base, name=f"attention-{one.name}", attention=one.name) for one in CANDIDATES]
    return [setting for setting in table if said.only is None or said.only in setting.name]


def measure(setting: Setting) -> dict[str, Any]:
    """Seconds per micro-step with one optimizer step each, and memory, in this process."""
    asked = TrainRequest(depth=setting.depth, vocab_size=setting.vocab, max_seq_len=setting.seq_len,
                         device_batch_size=setting.rows, total_batch_size=setting.rows * setting.seq_len,
                         num_iterations=1000, compile="on" if setting.compile else "off",
                         fp8="on" if setting.fp8 else "off")  # fmt: skip
    machine = devices.machine(setting.device)
    plan = resolve(asked, machine, None)
    place = torch.device(setting.device)
    dtype = compute_dtype(plan.dtype)
    if setting.attention == "chosen":
        choice = choose(plan.model, place, dtype, cache_dir(), compiled=setting.compile)
        attend, reasons = choice.make(), choice.lines()
    else:
        attend, reasons = named(setting, plan.model.windows, place, dtype)
    if not setting.chunked:
        loss.chunk_tokens = lambda vocab, where: setting.rows * setting.seq_len
    model = build(plan.model, 1, place, dtype, attend=attend)
    if setting.fp8:
        fp8.enable(model)
    if setting.compile:
        model.compile(dynamic=False, fullgraph=True)
    optimizer = Optimizer(model, roles(model), plan.optim, World(place))
    generator = torch.Generator().manual_seed(1)
    seconds, first = [], time.perf_counter()
    for step in range(setting.warm + setting.steps):
        ids = torch.randint(setting.vocab, (setting.rows, setting.seq_len + 1), generator=generator).to(place)
        devices.synchronise(place)
        start = time.perf_counter()
        (model(ids[:, :-1].int(), ids[:, 1:].contiguous()) / ids[:, 1:].numel()).backward()
        forward = time.perf_counter()
        optimizer.grad_norm()
        optimizer.step(rates_at(step, plan.schedule), first=step == 0)
        optimizer.zero_grad()
        devices.synchronise(place)
        seconds.append((time.perf_counter() - start, forward - start))
        if step == 0:
            compiling = time.perf_counter() - first
    counted = [whole for whole, _ in seconds[setting.warm :]]
    rate = setting.rows * setting.seq_len / statistics.median(counted)
    peak = machine.peak_flops or devices.measured_peak(place, dtype)
    held = devices.peak_memory(place)
    return {
        "tokens_per_second": round(rate, 1),
        "step_ms": [round(1000 * value, 2) for value in sorted(counted)],
        "mfu": round(rate * flops_per_token(plan.model) / peak, 4),
        "mfu_causal": round(rate * flops_per_token_causal(plan.model) / peak, 4),
        "peak_flops": peak,
        "peak_bytes": held,
        "planned_bytes": plan.memory.total,
        "memory_ratio": round(held / plan.memory.total, 3),
        "first_step_seconds": round(compiling, 1),
        "attention": reasons,
        "dtype": plan.dtype,
    }


def named(
    setting: Setting, windows: tuple[int | None, ...], place: torch.device, dtype: torch.dtype
) -> tuple[ByKind, list[str]]:
    """One kernel by name, and masks for the windows it has none for. Raises ValueError where it cannot run."""
    (candidate,) = [one for one in CANDIDATES if one.name == setting.attention]
    if why := candidate.obstacle("L", place, dtype):
        raise ValueError(why)
    kernel = candidate.make()
    masked = any(windows) and candidate.obstacle("S", place, dtype)
    windowed = PLAIN.make() if masked else kernel
    return ByKind(kernel, windowed), [f"{candidate.name}{'; windows: masks' if masked else ''}"]


def facts(device: str) -> dict[str, Any]:
    found = {"torch": torch.__version__, "cuda": torch.version.cuda, "device": devices.machine(device).name}
    return found | {"cores": devices.machine(device).cores}


def one(text: str) -> None:
    """A child's work: print the figures of one setting."""
    setting = Setting(**json.loads(text))
    try:
        result = measure(setting)
    except (PicoError, ValueError) as error:
        result = {"cannot": getattr(error, "message", str(error))}
    print(json.dumps({"setting": asdict(setting), **result}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("depth", 12), ("vocab", 32_768), ("seq-len", 2048), ("rows", 16), ("warm", 5), ("steps", 20)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", help="settings whose name holds this")
    parser.add_argument("--tiny", action="store_true", help="a shape for a CPU")
    parser.add_argument("--out", type=Path, help="a file for all results")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.one:
        one(said.one)
        return
    if said.tiny:
        said.depth, said.vocab, said.seq_len, said.rows, said.warm, said.steps = 2, 512, 256, 2, 1, 2
    results = []
    for setting in settings(said):
        command = [sys.executable, __file__, "--one", json.dumps(asdict(setting))]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=GIVE_UP_SECONDS, check=False)
            result = json.loads(done.stdout.splitlines()[-1])
        except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
            last = "" if isinstance(error, subprocess.TimeoutExpired) else done.stderr.strip()[-500:]
            result = {"setting": asdict(setting), "failed": f"{type(error).__name__}: {last}"}
        results.append(result)
        print(json.dumps(result), flush=True)
    if said.out:
        said.out.write_text(json.dumps({"machine": facts(said.device), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
