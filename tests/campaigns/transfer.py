"""Whether one learning rate serves all depths, and where a short run's rates should not fall below. `just transfer`.

    python -m tests.campaigns.transfer FOLDER [--what depth,floor] [--seeds 1]

*depth*: depths 2, 4, 6 × five factors on all rates (×2 from one to the next), 64 steps of 1,024 tokens; the best
factor may move by one place. *floor*: the scale of all rates at 60, 200 and 600 steps of 1,024 tokens, depth 2;
`plan.laws` keeps it at ½ · min(1, 600 / steps) or more. openstax, V 4,096, T 128. A process per run, one thread each;
runs whose JSON is in FOLDER are not made again. Writes `depth.json`, `floor.json`, a picture and a table of each.
"""

import argparse
import json
import statistics
from pathlib import Path

from tests.campaigns.chart import Line, draw
from tests.campaigns.sweep import Sweep
from tests.campaigns.trial import Job

from picollm.plan.laws import lr_scale

SEQ_LEN, BATCH, VAL_TOKENS = 128, 1024, 2**14
DEPTHS, FACTORS, STEPS = (2, 4, 6), (0.25, 0.5, 1.0, 2.0, 4.0), 64
FLOOR_STEPS, SCALES = (60, 200, 600), (0.125, 0.25, 0.5, 1.0, 2.0)

Scores = dict[float, float]  # bits per byte by place on the grid, the mean over seeds


def score(sweep: Sweep, depth: int, steps: int, factor: float, seeds: int) -> float:
    """Validation at the end, the mean over seeds; a run that diverged has no place on the curve and counts as ∞."""
    jobs = [
        Job("ours", depth, steps, BATCH, SEQ_LEN, seed, factor=factor, last_val_tokens=VAL_TOKENS)
        for seed in range(1, seeds + 1)
    ]
    return statistics.mean(sweep(job)["bpb"] for job in jobs)


def over_depths(sweep: Sweep, seeds: int) -> dict[int, Scores]:
    return {d: {factor: score(sweep, d, STEPS, factor, seeds) for factor in FACTORS} for d in DEPTHS}


def over_scales(sweep: Sweep, seeds: int) -> dict[int, Scores]:
    """The factor that makes the scale of all rates what is asked."""
    return {
        steps: {scale: score(sweep, 2, steps, scale / lr_scale(BATCH, steps), seeds) for scale in SCALES}
        for steps in FLOOR_STEPS
    }


def best_of(scores: Scores) -> float:
    return min(scores, key=lambda place: scores[place])


def table(head: str, found: dict[int, Scores]) -> str:
    places = list(next(iter(found.values())))
    lines = [
        f"| {head} | {' | '.join(f'{place:g}' for place in places)} | best |",
        f"|--:|{'--:|' * (len(places) + 1)}",
    ]
    for name, scores in found.items():
        lines.append(f"| {name} | {' | '.join(f'{scores[p]:.4f}' for p in places)} | {best_of(scores):g} |")
    return "\n".join(lines) + "\n"


def write(folder: Path, name: str, head: str, across: str, found: dict[int, Scores], seeds: int) -> None:
    told = {"seeds": seeds, "batch": BATCH, "seq_len": SEQ_LEN, "bpb": found,
            "best": {key: best_of(scores) for key, scores in found.items()}}  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps(told, indent=1) + "\n")
    (folder / f"{name}.md").write_text(table(head, found))
    lines = [Line(f"{head} {key}: {best_of(scores):g}", sorted(scores.items())) for key, scores in found.items()]
    (folder / f"{name}.svg").write_text(
        draw("openstax, V 4,096", across, "validation, bits per byte", lines, log_x=True)
    )
    print(table(head, found), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--what", default="depth,floor")
    parser.add_argument("--seeds", type=int, default=1)
    said = parser.parse_args()
    with Sweep(said.folder) as sweep:
        if "depth" in said.what:
            write(said.folder, "depth", "depth", "factor on all rates", over_depths(sweep, said.seeds), said.seeds)
        if "floor" in said.what:
            write(said.folder, "floor", "steps", "scale of all rates", over_scales(sweep, said.seeds), said.seeds)


if __name__ == "__main__":
    main()
