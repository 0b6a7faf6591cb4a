"""Many trials, one process after the other; what is there is not made again, so a sweep may be killed at any time."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.campaigns.trial import Job

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("PICOLLM_SHARED", REPOSITORY.parent / "shared"))
CORPUS = SHARED / "data" / "pretrain_openstax"
VOCAB = 4096

Found = dict[str, Any]


class Sweep:
    """Trials whose figures lie in `folder`, one JSON each; tokenizer and shards are made anew, to the same bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        paths = os.pathsep.join([str(REPOSITORY / "python"), str(REPOSITORY)])
        self.environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        self.hold = ExitStack()

    def __enter__(self) -> "Sweep":
        self.environment["PICOLLM_HOME"] = self.hold.enter_context(TemporaryDirectory())
        for words in (["tok", "train", "--vocab-size", str(VOCAB)], ["shard"]):
            source = ["--dataset-name", str(CORPUS)] if words[0] == "tok" else [str(CORPUS)]
            self.run("picollm.cli.main", *words, *source)
        return self

    def __exit__(self, *_: object) -> None:
        self.hold.close()

    def run(self, module: str, *words: str) -> None:
        subprocess.run([sys.executable, "-m", module, *words], env=self.environment, check=True, cwd=REPOSITORY,
                       stdout=subprocess.DEVNULL)  # fmt: skip

    def __call__(self, job: Job) -> Found:
        """The figures of `job`, from disk if they are there."""
        out = self.folder / f"{job.name}.json"
        if not out.is_file():
            self.run("tests.campaigns.trial", json.dumps(asdict(job)), str(out))
        found: Found = json.loads(out.read_text())
        print(f"{job.name}: {found['bpb']:.4f} bits per byte after {found['tokens']:,} tokens", flush=True)
        return found


def best_rate(
    score: Callable[[float], float], first: tuple[float, ...], *, most: int = 3
) -> tuple[float, dict[float, float]]:
    """The rate of the lowest score on a grid of ×2 that starts as `first` and grows at an end while the best is there.

    `most`: steps of growth. Returns the rate and all scores.
    """
    scores = {rate: score(rate) for rate in first}
    for _ in range(most):
        best = min(scores, key=lambda rate: scores[rate])
        if best not in (min(scores), max(scores)):
            break
        grown = best * 2 if best == max(scores) else best / 2
        scores[grown] = score(grown)
    return min(scores, key=lambda rate: scores[rate]), scores
