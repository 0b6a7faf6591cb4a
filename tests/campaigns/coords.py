"""How the size of activations follows the width after ten steps: the coordinate check. `just coords`.

    python -m tests.campaigns.coords FOLDER [--widths 128,256,512,1024] [--seeds 2]

Depth 4, heads of 64, the first ten steps of the plan `picollm train` makes for 1,000, on one fixed batch of made-up
rows. Their rates add up to 0.8 of a base rate; those of the run that was tuned, to 1.4. In a plan of 200 steps they add
up to 4: wide models then know the fixed rows by heart, and their logits tell how well, not how the width acts.
Each quantity's RMS is averaged (logarithms) over layers, and e in RMS ∝ widthᵉ is fitted. If e is near 0 a rate that
suits one width suits another. Bounds: training specification 3.6. Points whose JSON is in FOLDER are not made again.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from tests.campaigns.chart import Line, draw
from torch import Tensor, nn

from picollm.loader.batch import Batch
from picollm.model.gpt import GPT, Block
from picollm.model.init import build
from picollm.model.roles import roles
from picollm.optim.sharded import Optimizer
from picollm.plan.facts import DataFacts
from picollm.plan.request import TrainRequest
from picollm.plan.resolve import resolve
from picollm.plan.schedule import rates_at
from picollm.runtime.dist import World
from picollm.runtime.machine import Machine
from picollm.train.state import Parts
from picollm.train.step import update

DEPTH, HEAD_DIM, VOCAB, SEQ_LEN, ROWS, STEPS, RUN = 4, 64, 2048, 128, 4, 10, 1000
BOUNDS = {"stream": 0.05, "q": 0.1, "up": 0.1, "v": 0.25, "attention out": 0.4, "logits": 0.6, "MLP out": 0.8}
FACTS = DataFacts("made up", "made up", "f" * 64, "a" * 64, VOCAB, 10**9, 10**6)

Sizes = dict[str, float]


def made_up_rows() -> Batch:
    """ROWS rows, frequent ids and rare ones; every other id follows from the one before it."""
    chance = torch.rand(ROWS, SEQ_LEN + 1, generator=torch.Generator().manual_seed(5))
    ids = (VOCAB * chance**3).long()
    ids[:, 1::2] = (7 * ids[:, : SEQ_LEN - 1 : 2] + 3)[:, : ids[:, 1::2].shape[1]] % VOCAB
    return Batch(ids[:, :-1].int(), ids[:, 1:].contiguous())


def sizes_after(width: int, seed: int, steps: int = STEPS) -> Sizes:
    """RMS by quantity of a model of this width after its training; before the softcap for logits."""
    request = TrainRequest(
        depth=DEPTH, hidden_size=width, head_dim=HEAD_DIM, max_seq_len=SEQ_LEN, window_pattern="L", seed=seed,
        num_iterations=RUN, total_batch_size=ROWS * SEQ_LEN, device_batch_size=ROWS, device="cpu", compile="off",
    )  # fmt: skip
    plan = resolve(request, Machine.cpu(1e11), FACTS).require()
    world, batch = World(), made_up_rows()
    model = build(plan.model, seed)
    parts = Parts(model, Optimizer(model, roles(model), plan.optim, world), None, world)  # type: ignore[arg-type]
    for step in range(steps):
        update(parts, [batch], rates_at(step, plan.schedule))
    return sizes(model, batch)


@torch.no_grad()
def sizes(model: GPT, batch: Batch) -> Sizes:
    """RMS by quantity, over one forward pass."""
    logs: dict[str, list[float]] = {name: [] for name in BOUNDS}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda module, given, out: logs[name].append(math.log(float(out.double().square().mean().sqrt())))

    for block in model.blocks:
        assert isinstance(block, Block)
        watched = {"stream": block, "q": block.attn.q, "v": block.attn.v, "attention out": block.attn.o,
                   "up": block.mlp.up, "MLP out": block.mlp.down}  # fmt: skip
        for name, module in watched.items():
            module.register_forward_hook(keep(name))
    h = model.hidden(batch.inputs)
    keep("logits")(model, None, h @ model.lm_head.weight.T)
    return {name: math.exp(statistics.mean(found)) for name, found in logs.items()}


def exponents(found: dict[int, list[Sizes]]) -> dict[str, float]:
    """Least squares of log RMS on log width, over all seeds."""
    fitted = {}
    for name in BOUNDS:
        points = [(math.log(width), math.log(one[name])) for width, seeds in found.items() for one in seeds]
        fitted[name] = statistics.linear_regression(*zip(*points, strict=True)).slope
    return fitted


def table(found: dict[int, list[Sizes]]) -> str:
    fitted = exponents(found)
    lines = [f"| RMS after {STEPS} steps | {' | '.join(f'{width:,}' for width in found)} | exponent | bound |",
             f"|---|{'--:|' * (len(found) + 2)}"]  # fmt: skip
    for name, bound in BOUNDS.items():
        means = [statistics.geometric_mean([one[name] for one in seeds]) for seeds in found.values()]
        mark = "" if abs(fitted[name]) <= bound else " **over**"
        lines.append(
            f"| {name} | {' | '.join(f'{mean:.4g}' for mean in means)} | {fitted[name]:+.3f}{mark} | {bound} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--widths", default="128,256,512,1024")
    parser.add_argument("--seeds", type=int, default=2)
    said = parser.parse_args()
    said.folder.mkdir(parents=True, exist_ok=True)
    found: dict[int, list[Sizes]] = {}
    for width in map(int, said.widths.split(",")):
        for seed in range(1, said.seeds + 1):
            path = said.folder / f"coords-{width}-seed{seed}.json"
            if not path.is_file():
                path.write_text(json.dumps(sizes_after(width, seed), indent=1) + "\n")
            found.setdefault(width, []).append(json.loads(path.read_text()))
    told = {"exponents": exponents(found), "bounds": BOUNDS, "sizes": found, "steps": STEPS, "of": RUN, "depth": DEPTH,
            "tokens_per_step": ROWS * SEQ_LEN, "torch": torch.__version__}  # fmt: skip
    (said.folder / "coords.json").write_text(json.dumps(told, indent=1) + "\n")
    lines = [
        Line(f"{name} {fitted:+.2f}", [(w, statistics.geometric_mean([s[name] for s in found[w]])) for w in found])
        for name, fitted in exponents(found).items()
    ]
    title = f"activations after {STEPS} steps, depth {DEPTH}"
    (said.folder / "coords.svg").write_text(draw(title, "width", "RMS", lines, log_x=True, log_y=True))
    (said.folder / "coords.md").write_text(table(found))
    print(table(found))


if __name__ == "__main__":
    main()
