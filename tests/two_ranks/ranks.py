"""Run a function in real processes that share a gloo group; their JSON results come back in rank order."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from picollm.runtime.dist import World

ROOT = Path(__file__).resolve().parents[2]
HANG_SECONDS = 120


def on_ranks(size: int, function: str, folder: Path, **arguments: Any) -> list[Any]:
    """`function` ("tests.two_ranks.module:name") called as f(world, **arguments) on each of `size` ranks."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [str(ROOT), *sys.path]
    base = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(size), "PYTHONPATH": os.pathsep.join(paths)}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.two_ranks.ranks", function, str(folder), json.dumps(arguments)],
            env={**base, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        said = [process.communicate(timeout=HANG_SECONDS)[1] for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    for rank, process in enumerate(started):
        assert process.returncode == 0, f"rank {rank} of {size}: {said[rank]}"
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]


def main() -> None:
    function, folder, arguments = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    module, name = function.split(":")
    with World.open(init_method=f"file://{folder / 'rendezvous'}") as world:
        result = getattr(importlib.import_module(module), name)(world, **arguments)
        (folder / f"{world.rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
