"""Tokens/s of a training step on these cores, beside a plain PyTorch GPT of the same shape. `just bench train`.

    python -m tests.bench.train [--depths 4,6] [--vocabs 4096,32768] [--rounds 5] [--json FILE]

T 512, B 4, made-up ids. Four contestants in one process, a step each in turn: this trainer and the plain GPT (its head
tied, its loss torch's, its AdamW fused), eager and compiled. Per step: forward and backward, then the rest (norm,
rules). Share: FLOPs of forward and backward, counted as peers do (every key), over the rate of an fp32 matmul of 2048³
made just before the step, the median of the rounds; in brackets over the best matmul of all, which a shared machine
gives once in a while. `opt @8k`: the optimizer's share of a step of 8,192 tokens, four micro-batches and one update.
Medians and ranges over the rounds.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tests.reference.gpt2 import PlainAdamW, PlainGPT

from picollm.loader.batch import Batch
from picollm.model.config import shape
from picollm.model.counts import flops_per_token
from picollm.model.init import build
from picollm.model.roles import roles
from picollm.optim.sharded import Optimizer
from picollm.plan.rates import optim_plan
from picollm.plan.schedule import Rates
from picollm.runtime.dist import World
from picollm.train.state import Parts, versions
from picollm.train.step import forward_backward

SEQ_LEN, ROWS = 512, 4
TOKENS, STEP_TOKENS = SEQ_LEN * ROWS, 8192
WARM = 2  # the first compiles
GEMM = 2048
RATES = Rates(lr=0.01, momentum=0.9, decay=0.1)


@dataclass
class Contestant:
    """One model with its optimizer. forward, rest: seconds of each counted step."""

    name: str
    parts: Parts
    flops: int  # per token, forward and backward, every key
    parameters: int
    first: float = 0.0  # seconds of the warm steps: compiling
    forward: list[float] = field(default_factory=list)
    rest: list[float] = field(default_factory=list)
    share: list[float] = field(default_factory=list)  # of the matmul's rate just before

    def step(self, batch: Batch, rate: float, counted: bool) -> None:
        start = time.perf_counter()
        forward_backward(self.parts, [batch], TOKENS)
        middle = time.perf_counter()
        float(self.parts.optimizer.grad_norm())
        self.parts.optimizer.step(RATES, first=False)
        self.parts.optimizer.zero_grad()
        end = time.perf_counter()
        if counted:
            self.forward.append(middle - start)
            self.rest.append(end - middle)
            self.share.append(self.flops * TOKENS / (middle - start) / rate)
        else:
            self.first += end - start


def contestants(depth: int, vocab: int) -> list[Contestant]:
    config = shape(depth, vocab, SEQ_LEN, "L")
    world, found = World(), []
    flops = flops_per_token(config)
    for compiled in (False, True):
        for name in ("picollm", "plain GPT"):
            model: Any = build(config, 1) if name == "picollm" else PlainGPT(config, 1)
            rule: Any = (
                Optimizer(model, roles(model), optim_plan(STEP_TOKENS, 1000, config.width), world)
                if name == "picollm"
                else PlainAdamW(dict(model.named_parameters()), 1e-3, 1000)
            )
            if compiled:
                model.compile(dynamic=False, fullgraph=True)
            count = sum(param.numel() for param in model.parameters())
            parts = Parts(model, rule, None, world)  # type: ignore[arg-type]
            found.append(Contestant(f"{name}, {'compiled' if compiled else 'eager'}", parts, flops, count))
    return found


def matmul_rate() -> Callable[[], float]:
    """A function that makes one matmul and gives its FLOP/s."""
    a, b = torch.randn(2, GEMM, GEMM)
    out = torch.empty_like(a)

    def once() -> float:
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        return 2 * GEMM**3 / (time.perf_counter() - start)

    return once


def compete(depth: int, vocab: int, rounds: int) -> dict[str, Any]:
    """One shape: every contestant in turn, a matmul between two rounds."""
    field_, rate = contestants(depth, vocab), matmul_rate()
    ids = torch.randint(vocab, (ROWS, SEQ_LEN + 1), generator=torch.Generator().manual_seed(1))
    batch = Batch(ids[:, :-1].int(), ids[:, 1:].contiguous())
    rates = [rate() for _ in range(3)]
    for number in range(WARM + rounds):
        for one in field_:
            rates.append(rate())
            one.step(batch, rates[-1], counted=number >= WARM)
    best = max(rates)
    return {
        "depth": depth, "vocab": vocab, "gemm": statistics.median(rates), "gemm_best": best,
        "contestants": [figures(one, best) for one in field_],
    }  # fmt: skip


def figures(one: Contestant, best: float) -> dict[str, Any]:
    forward, rest = statistics.median(one.forward), statistics.median(one.rest)
    whole = [a + b for a, b in zip(one.forward, one.rest, strict=True)]
    micro = STEP_TOKENS // TOKENS
    return {
        "name": one.name, "parameters": one.parameters, "compile_seconds": one.first, "forward": one.forward,
        "rest": one.rest, "tokens_per_second": TOKENS / statistics.median(whole),
        "range": [TOKENS / max(whole), TOKENS / min(whole)],
        "share": statistics.median(one.share), "share_of_best": one.flops * TOKENS / forward / best,
        "optimizer": rest / (forward + rest), "optimizer_8k": rest / (micro * forward + rest),
    }  # fmt: skip


def table(found: Sequence[dict[str, Any]]) -> str:
    lines = ["| depth | V | | tok/s | range | fwd+bwd, share of GEMM | optimizer | opt @8k | GEMM GFLOP/s |",
             "|--:|--:|---|--:|--:|--:|--:|--:|--:|"]  # fmt: skip
    for one in found:
        for row in one["contestants"]:
            low, high = row["range"]
            lines.append(
                f"| {one['depth']} | {one['vocab']:,} | {row['name']} | {row['tokens_per_second']:,.0f} | "
                f"{low:,.0f}–{high:,.0f} | {row['share']:.0%} ({row['share_of_best']:.0%}) | {row['optimizer']:.0%} | "
                f"{row['optimizer_8k']:.0%} | {one['gemm'] / 1e9:.0f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--depths", default="4,6")
    parser.add_argument("--vocabs", default="4096,32768")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    said = parser.parse_args()
    found = [
        compete(int(depth), int(vocab), said.rounds)
        for depth in said.depths.split(",")
        for vocab in said.vocabs.split(",")
    ]
    if said.json:
        told = {"threads": torch.get_num_threads(), "seq_len": SEQ_LEN, "rows": ROWS, "versions": versions(),
                "found": found}  # fmt: skip
        said.json.write_text(json.dumps(told, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
