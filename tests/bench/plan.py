"""What `plan` says against what a run does, on this machine: parameters, memory, time. `just bench plan`.

    python -m tests.bench.plan [--depths 2,4,6] [--steps 12] [--json FILE]

Per depth: `plan` (formulas only), `plan --measure`, then `train` of a short run with the same options, each as a
process of its own, as a user would type them. Tokenizer and shards are made from the standard library's sources.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from safetensors import safe_open

from picollm.report.run import Run

PACKAGE = Path(__file__).resolve().parents[2] / "python"
VOCAB, SEQ_LEN, ROWS, MICRO_STEPS = 4096, 256, 8, 2


def picollm(home: Path, *words: str) -> str:
    """stdout of one command."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE), "PICOLLM_HOME": str(home)}
    command = [sys.executable, "-m", "picollm.cli.main", *words]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout


def options(depth: int, steps: int) -> list[str]:
    return [
        "--depth", str(depth), "--max-seq-len", str(SEQ_LEN), "--window-pattern", "L", "--device", "cpu",
        "--device-batch-size", str(ROWS), "--grad-accum", str(MICRO_STEPS), "--num-iterations", str(steps),
        "--eval-every", str(steps), "--name", f"d{depth}",
    ]  # fmt: skip


def parameters(run: Path) -> int:
    """Numbers in the weights of the newest checkpoint."""
    newest = max((run / "checkpoints").iterdir())
    total = 0
    for path in sorted(newest.glob("model*.safetensors")):
        with safe_open(path, "numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118  (a file, no mapping)
                size = 1
                for length in tensors.get_slice(name).get_shape():
                    size *= length
                total += size
    return total


def compare(home: Path, depth: int, steps: int) -> dict[str, Any]:
    """One depth: planned, measured, done."""
    words = options(depth, steps)
    before = json.loads(picollm(home, "plan", *words, "--json"))
    after = json.loads(picollm(home, "plan", *words, "--measure", "--json"))
    picollm(home, "train", *words)
    run = Run.read(home / "runs" / f"d{depth}")
    return {
        "depth": depth,
        "width": before["width"],
        "tokens_per_step": before["tokens_per_step"],
        "steps": steps,
        "parameters": {"predicted": before["params"]["total"], "actual": parameters(run.path)},
        "peak_bytes": {
            "predicted": before["memory"]["total"],
            "measured": after["memory"]["measured"],
            "actual": max(line["mem_peak"] for line in run.kind("step")),
        },
        "seconds": {
            "predicted": before["time"]["seconds"],
            "measured": after["time"]["seconds"],
            "actual": run.seconds,
        },
        "step_seconds": {"measured": after["measured"]["step_seconds"], "actual": (run.median("dt_ms") or 0) / 1000},
    }


def error(said: float, found: float) -> str:
    return f"{100 * (said / found - 1):+.1f} %"


def table(found: list[dict[str, Any]]) -> str:
    """Markdown. Memory is told before anything ran, time before and after `--measure`."""
    lines = [
        "| depth | parameters, plan = run | memory: plan | run | error | time: plan | plan --measure | run | error |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for one in found:
        count, peak, time = one["parameters"], one["peak_bytes"], one["seconds"]
        same = "=" if count["predicted"] == count["actual"] else f"≠ {count['actual']:,}"
        lines.append(
            f"| {one['depth']} | {count['predicted']:,} {same} | {peak['predicted'] / 2**20:,.0f} MiB | "
            f"{peak['actual'] / 2**20:,.0f} MiB | {error(peak['predicted'], peak['actual'])} | "
            f"{time['predicted']:.1f} s | {time['measured']:.1f} s | {time['actual']:.1f} s | "
            f"{error(time['measured'], time['actual'])} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--depths", default="2,4,6")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--json", type=Path)
    said = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        picollm(home, "tok", "train", "--vocab-size", str(VOCAB), "--dataset-name", "stdlib")
        picollm(home, "shard", "stdlib")
        found = [compare(home, int(depth), said.steps) for depth in said.depths.split(",")]
    if said.json:
        said.json.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
