"""How well a million tokens teach depth 4: this trainer, the same with AdamW only, and a plain GPT-2. `just learn`.

    python -m tests.campaigns.learn FOLDER [--seeds 3]

Same corpus (openstax), vocabulary (4,096), rows, order and validation rows for all arms. Our rates come from the
scaling rules, untouched. Those of the other two are searched with the first seed on runs of full length (grid of ×2,
grown while the best is at an end; what a quarter of the tokens prefers is another rate). A process per run, one thread
each; runs whose JSON is in FOLDER are not made again. Writes `learning.json`, `learning.svg` and `table.md`.
"""

import argparse
import json
import statistics
from pathlib import Path

from tests.campaigns.chart import Line, draw
from tests.campaigns.sweep import Found, Sweep, best_rate
from tests.campaigns.trial import Job

DEPTH, SEQ_LEN, BATCH = 4, 256, 4096
STEPS, EVAL_EVERY = 256, 16  # of BATCH tokens: 1,048,576, and a look every 65,536
ARMS = {"ours": "picollm", "adamw": "AdamW only", "gpt2": "plain GPT-2"}
GRIDS = {"adamw": (0.001, 0.002, 0.004), "gpt2": (0.001, 0.002)}
SEED = 1


def job(arm: str, seed: int, rate: float | None = None) -> Job:
    return Job(arm, DEPTH, STEPS, BATCH, SEQ_LEN, seed, rate=rate, eval_every=EVAL_EVERY)


def campaign(sweep: Sweep, seeds: int) -> dict[str, list[Found]]:
    """Runs by arm. The first seed of every arm comes first, so that a campaign cut short still compares."""
    rates: dict[str, float | None] = {"ours": None}
    searched: dict[str, dict[float, float]] = {}
    for arm, grid in GRIDS.items():
        rates[arm], searched[arm] = best_rate(lambda rate, arm=arm: sweep(job(arm, SEED, rate))["bpb"], grid)  # type: ignore[misc]
    found: dict[str, list[Found]] = {arm: [] for arm in ARMS}
    for seed in range(SEED, SEED + seeds):
        for arm in ARMS:
            found[arm].append(sweep(job(arm, seed, rates[arm])))
        write(sweep.folder, found, searched)
    return found


def tokens_to(found: Found, bpb: float) -> float | None:
    """Tokens after which the validation curve first is at or below `bpb`, on straight lines between its points."""
    for (x0, y0), (x1, y1) in zip(found["curve"], found["curve"][1:], strict=False):
        if y1 <= bpb:
            return float(x0 + (x1 - x0) * (y0 - bpb) / (y0 - y1)) if y0 > bpb else float(x0)
    return None


def summary(found: dict[str, list[Found]]) -> dict[str, dict[str, object]]:
    """Mean and spread of the last validation, and the tokens that `ours` needs to stand where an arm ends."""
    rows: dict[str, dict[str, object]] = {}
    for arm, runs in found.items():
        ends = [run["bpb"] for run in runs]
        needed = [tokens_to(mine, run["curve"][-1][1]) for mine, run in zip(found["ours"], runs, strict=True)]
        rows[arm] = {
            "bpb": ends, "mean": statistics.mean(ends), "sd": statistics.stdev(ends) if len(ends) > 1 else None,
            "rate": runs[0]["matrix_rate"], "parameters": runs[0]["parameters"],
            "skipped": [run["skipped"] for run in runs], "ours_needs_tokens": needed,
        }  # fmt: skip
    return rows


def write(folder: Path, found: dict[str, list[Found]], searched: dict[str, dict[float, float]]) -> None:
    rows = summary(found)
    one = found["ours"][0]
    told = {"arms": rows, "searched": searched, "tokens": one["tokens"], "val_bytes": one["val_bytes"],
            "val_set": one["val_set"], "shards": one["shards"], "versions": one["versions"],
            "curves": {arm: [run["curve"] for run in runs] for arm, runs in found.items()}}  # fmt: skip
    (folder / "learning.json").write_text(json.dumps(told, indent=1) + "\n")
    lines = []
    for arm, runs in found.items():
        points = [run["curve"][1:] for run in runs]
        columns = list(zip(*points, strict=True))
        heights = [[y for _, y in column] for column in columns]
        middle = [(column[0][0], statistics.mean(ys)) for column, ys in zip(columns, heights, strict=True)]
        lines.append(Line(f"{ARMS[arm]} {middle[-1][1]:.3f}", middle, list(map(min, heights)), list(map(max, heights))))
    title = f"depth {DEPTH}, V 4,096, openstax, {len(found['ours'])} seeds"
    (folder / "learning.svg").write_text(draw(title, "tokens", "validation, bits per byte", lines))
    (folder / "table.md").write_text(table(rows))


def table(rows: dict[str, dict[str, object]]) -> str:
    said = ["| arm | matrix rate | parameters | bits per byte, mean | sd | each seed | tokens ours needs for it |",
            "|---|--:|--:|--:|--:|---|--:|"]  # fmt: skip
    for arm, row in rows.items():
        ends: list[float] = row["bpb"]  # type: ignore[assignment]
        needed = [value for value in row["ours_needs_tokens"] if value is not None]  # type: ignore[attr-defined]
        tokens = f"{statistics.mean(needed):,.0f}" if needed and arm != "ours" else "–"
        spread = "–" if row["sd"] is None else f"{row['sd']:.4f}"
        each = ", ".join(f"{end:.4f}" for end in ends)
        cells = [ARMS[arm], f"{row['rate']:.3g}", f"{row['parameters']:,}", f"{row['mean']:.4f}", spread, each, tokens]
        said.append(f"| {' | '.join(cells)} |")
    return "\n".join(said) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    said = parser.parse_args()
    with Sweep(said.folder) as sweep:
        print(table(summary(campaign(sweep, said.seeds))))


if __name__ == "__main__":
    main()
