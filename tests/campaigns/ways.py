"""Every way to make one shard set: workers, tasks, tasks and workers mixed, Ray. All end in one fingerprint."""

import importlib.util
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from picollm.corpus.source import open_source
from picollm.shards.build import build
from picollm.shards.manifest import ShardSet
from picollm.shards.tasks import Task, finalize_set, plan_set, run_task

SHARD_TOKENS = 2_000
GIVE_UP_SECONDS = 240
TASKS = {
    "task 0/1": [("0/1", 1)],
    "tasks 0/3, 1/3, 2/3": [("0/3", 1), ("1/3", 1), ("2/3", 1)],
    "tasks of 2, 3 and 5 that overlap, backwards, 1 to 4 workers": [("1/2", 3), ("4/5", 1), ("0/3", 4), ("0/2", 2)],
}
# In a child, so that the cluster ends with it.
ON_RAY = """
import sys
from pathlib import Path
import ray
from picollm.shards.engines.ray import run_on_ray

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
run_on_ray(Path(sys.argv[1]), threads=1)
"""


def fingerprints(source: Path, tokenizer: Path, root: Path) -> dict[str, str]:
    """The fingerprint of the set by the way it was made, below `root`; Ray's where Ray is installed."""
    found = {}
    for workers in (1, 2, 3, 4):
        made = build(
            open_source(str(source)), tokenizer, root / f"w{workers}", shard_tokens=SHARD_TOKENS, workers=workers
        )
        found[f"{workers} workers"] = made.fingerprint
    for number, (name, tasks) in enumerate(TASKS.items()):
        found[name] = by_tasks(source, tokenizer, root / f"t{number}", tasks)
    if importlib.util.find_spec("ray") is not None:
        found["Ray, 2 workers"] = by_ray(source, tokenizer, root / "ray")
    return found


def configurations(home: Path, count: int, seed: int) -> set[str]:
    """The fingerprints of `count` runs of the command on `home/source`, each with other workers, language, time zone,
    hash seed, threads and mask of file modes."""
    chance = random.Random(seed)
    found = set()
    for number in range(count):
        surroundings = {
            "LC_ALL": chance.choice(["C", "C.UTF-8", "tr_TR.UTF-8", "de_DE.ISO-8859-1", "POSIX"]),
            "TZ": chance.choice(["UTC", "Asia/Kathmandu", "America/St_Johns", "XYZ-25"]),
            "PYTHONHASHSEED": str(chance.randrange(2**32)),
            "PYTHONUTF8": chance.choice(["0", "1"]),
            "OMP_NUM_THREADS": chance.choice(["1", "7"]),
            "PICOLLM_HOME": str(home),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        out = home / f"configuration-{number}"
        command = [sys.executable, "-m", "picollm.cli.main", "shard", "source", "--out", str(out)]
        subprocess.run(
            [*command, "--shard-tokens", str(SHARD_TOKENS), "--workers", str(chance.randrange(1, 6))],
            cwd=home,
            env=os.environ | surroundings,
            umask=chance.choice([0o000, 0o022, 0o077]),
            check=True,
            capture_output=True,
            timeout=GIVE_UP_SECONDS,
        )
        found.add(ShardSet.open(out).fingerprint)
    return found


def by_tasks(source: Path, tokenizer: Path, out: Path, tasks: Sequence[tuple[str, int]]) -> str:
    plan_set(open_source(str(source)), tokenizer, out, shard_tokens=SHARD_TOKENS)
    for task, workers in tasks:
        run_task(out, Task.parse(task), workers=workers)
    return finalize_set(out).fingerprint


def by_ray(source: Path, tokenizer: Path, out: Path) -> str:
    plan_set(open_source(str(source)), tokenizer, out, shard_tokens=SHARD_TOKENS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "RAY_USAGE_STATS_ENABLED": "0"}
    subprocess.run(
        [sys.executable, "-c", ON_RAY, str(out)],
        env=environment,
        check=True,
        capture_output=True,
        timeout=GIVE_UP_SECONDS,
    )
    return finalize_set(out).fingerprint
