"""Two ranks under torchrun; one of them is killed, stopped or given NaN at a drawn step, many times: `just ranks 50`.

After a death or a hang torchrun starts the ranks again; the finished run must have the log and the weights of an
unbroken one. A NaN must be skipped by both ranks in its own step and name its rank. Prints JSON.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.two_ranks.test_training import PLAN, REPOSITORY, WORKER

from picollm.runtime.dist import STEP_VARIABLE
from picollm.runtime.runlog import METRICS, TIME_FIELDS, read
from picollm.train.state import versions

FAULTS = ("SIGKILL", "SIGSTOP", "nan")
HANG_SECONDS = 10
GIVE_UP_SECONDS = 280
OPTIONS = ("--max-restarts=1", "--shutdown-timeout=1")


def run(folder: Path, fault: dict[str, Any] | None) -> float:
    """Train in `folder` to the end; seconds it took. Raises CalledProcessError, TimeoutExpired."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *OPTIONS]
    said = {"folder": str(folder), "plan": PLAN} | ({"fault": fault} if fault else {})
    paths = [str(REPOSITORY / "python"), str(REPOSITORY)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths),
                   STEP_VARIABLE: str(HANG_SECONDS)}  # fmt: skip
    start = time.monotonic()
    subprocess.run([*command, str(WORKER), json.dumps(said)], env=environment, capture_output=True, check=True,
                   timeout=GIVE_UP_SECONDS)  # fmt: skip
    return time.monotonic() - start


def picture(folder: Path) -> tuple[list[dict[str, Any]], Any]:
    """The log without clocks, and the hash of the weights on each rank."""
    lines = [{key: value for key, value in line.items() if key not in TIME_FIELDS} for line in read(folder / METRICS)]
    return lines, json.loads((folder / "digests.json").read_text())


def judge(folder: Path, fault: dict[str, Any], whole: tuple[list[dict[str, Any]], Any]) -> bool:
    """Whether the run did what was promised for this fault."""
    lines, digests = picture(folder)
    if fault["what"] != "nan":
        return (lines, digests) == whole
    guards = [line for line in lines if line["kind"] == "guard"]
    named = [(line["step"], line["ranks"]) for line in guards]
    return named == [(fault["step"] + 1, [fault["rank"]])] and len(set(digests)) == 1


def campaign(count: int, seed: int, root: Path) -> dict[str, object]:
    chance = random.Random(seed)
    unbroken = run(root / "unbroken", None)
    whole = picture(root / "unbroken")
    seconds: dict[str, list[float]] = {what: [] for what in FAULTS}
    wrong = []
    for number in range(count):
        what = FAULTS[number % len(FAULTS)]
        fault = {"rank": chance.randrange(2), "step": chance.randrange(1, PLAN["num_iterations"]), "what": what}
        folder = root / str(number)
        seconds[what].append(run(folder, fault))
        if not judge(folder, fault, whole):
            wrong.append(fault)
    return {"seed": seed, "faults": {what: len(found) for what, found in seconds.items()}, "wrong": wrong,
            "seconds_unbroken": round(unbroken, 1), "hang_seconds": HANG_SECONDS,
            "median_seconds": {what: round(statistics.median(found), 1) for what, found in seconds.items() if found},
            "versions": versions()}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--replay", type=int, default=None, metavar="SEED")
    said = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if said.replay is None else said.replay
    with tempfile.TemporaryDirectory() as folder:
        result = campaign(said.count, seed, Path(folder))
    print(json.dumps(result))
    raise SystemExit(1 if result["wrong"] else 0)


if __name__ == "__main__":
    main()
