"""Kill and resume a training run, many times: `just soak 200`. Every float of every run must be the same.

Each cycle is a forked trainer that is killed at a drawn step or inside a drawn step of a save. When a run has come to
its end, its log and its weights are compared with an unbroken run's, and the next run starts. Prints JSON.
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

import torch
from tests.unit.train.small import PLACES, die_training, small_plan, train_small

from picollm.plan.request import Interval
from picollm.plan.trainplan import TrainPlan
from picollm.runtime.runlog import METRICS, TIME_FIELDS, read
from picollm.train.state import Parts, versions


def picture(folder: Path, parts: Parts) -> tuple[list[dict[str, object]], dict[str, torch.Tensor]]:
    """What must be equal: the log without clocks, and all weights and optimizer state."""
    lines = [{key: value for key, value in line.items() if key not in TIME_FIELDS} for line in read(folder / METRICS)]
    return lines, {**dict(parts.model.named_parameters()), **parts.optimizer.state_dict()}


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> int:
    return sum(not torch.equal(one[name], other[name]) for name in one) + len(one.keys() ^ other.keys())


def soak(plan: TrainPlan, cycles: int, seed: int, root: Path) -> dict[str, object]:
    rng = random.Random(seed)
    lines, tensors = picture(root / "unbroken", train_small(plan, root / "unbroken"))
    kills, runs, wrong = 0, 0, 0
    start = time.monotonic()
    while kills < cycles:
        folder = root / f"run-{runs}"
        for _ in range(rng.randrange(1, 12)):
            kills += die_training(plan, folder, at=rng.randrange(1, plan.steps), place=rng.choice(PLACES))
        found_lines, found = picture(folder, train_small(plan, folder))
        runs += 1
        wrong += differing(tensors, found) + (found_lines != lines)
    return {"seed": seed, "kills": kills, "runs": runs, "differences": wrong, "steps": plan.steps,
            "seconds": round(time.monotonic() - start), "versions": versions()}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--replay", type=int, default=None, metavar="SEED")
    said = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if said.replay is None else said.replay
    torch.set_num_threads(1)  # a fork must not inherit a pool of threads
    plan = small_plan(num_iterations=40, save_every=Interval(5, "steps"), eval_every=10)
    with tempfile.TemporaryDirectory() as folder:
        result = soak(plan, said.cycles, seed, Path(folder))
    print(json.dumps(result))
    raise SystemExit(1 if result["differences"] else 0)


if __name__ == "__main__":
    main()
