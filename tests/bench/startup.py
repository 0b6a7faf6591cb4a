"""How long a command takes to answer, from its start to its end. `just bench startup`.

    python -m tests.bench.startup [--runs 10]

Wall time of whole processes, warm disk cache; "first" is a plan without a kept matmul rate of this machine.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "python"
COMMANDS = {
    "import picollm": ["-c", "import picollm"],
    "picollm --help": ["-m", "picollm.cli.main", "--help"],
    "picollm train --help": ["-m", "picollm.cli.main", "train", "--help"],
    "picollm plan --depth 4": ["-m", "picollm.cli.main", "plan", "--depth", "4"],
    "picollm explain depth": ["-m", "picollm.cli.main", "explain", "depth"],
}
GOALS = {"picollm --help": 200, "picollm plan --depth 4": 500, "import picollm": 50}  # milliseconds


def seconds(words: list[str], home: Path) -> float:
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE), "PICOLLM_HOME": str(home), "PICOLLM_CACHE": str(home)}
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def line(name: str, times: list[float], goal: str) -> str:
    low, middle, high = (1000 * f(times) for f in (min, statistics.median, max))
    return f"{name:<32} {middle:6.0f} ms  ({low:.0f} … {high:.0f}, n={len(times)}){goal}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=10)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        for name, words in COMMANDS.items():
            home = Path(folder) / "home"
            home.mkdir(exist_ok=True)
            seconds(words, home)
            goal = f"  goal {GOALS[name]}" if name in GOALS else ""
            print(line(name, [seconds(words, home) for _ in range(runs)], goal))
        firsts = []
        for number in range(runs):
            fresh = Path(folder) / str(number)
            fresh.mkdir()
            firsts.append(seconds(COMMANDS["picollm plan --depth 4"], fresh))
        print(line("picollm plan --depth 4, the first", firsts, "  goal 500"))


if __name__ == "__main__":
    main()
