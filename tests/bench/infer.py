"""Tokens a second of the engine, and the time to its first token: `just bench infer [--run RUN]`. Prints JSON.

A model of the quickstart's shape with drawn weights, or a trained one. Batches of 1, 4 and 16 requests, each of one
prompt length and as many new tokens; the median of several rounds, and their spread.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from picollm.ckpt.store import load_model
from picollm.infer.engine import Answer, Batch, Engine, Request
from picollm.infer.sample import Sampling
from picollm.model.config import shape
from picollm.model.counts import count
from picollm.model.init import build

BATCHES = (1, 4, 16)
PROMPT, WRITTEN = 64, 96  # tokens
ROUNDS = 7


def spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 2),
        "least": round(min(values), 2),
        "most": round(max(values), 2),
    }


def requests(vocab_size: int, rows: int) -> list[Request]:
    draw = torch.Generator().manual_seed(1)
    prompts = torch.randint(vocab_size - 9, (rows, PROMPT), generator=draw).tolist()
    how = [Sampling(0.8, top_k=50, seed=row) for row in range(rows)]
    return [Request(tuple(prompt), one, WRITTEN) for prompt, one in zip(prompts, how, strict=True)]


def timed(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def measure(engine: Engine, rows: int, rounds: int) -> dict[str, object]:
    """Prefill of all prompts to their first tokens (ms), then new tokens a second of all rows together."""
    first, rates = [], []
    for number in range(rounds + 1):
        answers = [Answer(one, engine) for one in requests(engine.config.vocab_size, rows)]
        batch = Batch(engine, rows, PROMPT + WRITTEN)
        prefill = timed(lambda batch=batch, answers=answers: batch.join(answers))  # type: ignore[misc]
        before = sum(len(answer.tokens) for answer in answers)

        def rest(batch: Batch = batch) -> None:
            while batch.live:
                batch.step()

        seconds = timed(rest)
        if number:  # the first one warms up
            first.append(1000 * prefill)
            rates.append((sum(len(answer.tokens) for answer in answers) - before) / seconds)
    return {"rows": rows, "first_token_ms": spread(first), "tokens_per_second": spread(rates)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, default=None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    said = parser.parse_args()
    if said.run is None:
        config = shape(4, 4096, 256, "L", width=128, head_dim=32)
        model = build(config, seed=1, device=said.device).eval()
    else:
        model, config, _, _ = load_model(said.run, said.device)
    engine = Engine(model)
    result = {
        "model": {"depth": config.depth, "width": config.width, "vocab_size": config.vocab_size,
                  "context": config.seq_len, "parameters": count(config).total},
        "prompt": PROMPT, "written": WRITTEN, "rounds": said.rounds, "threads": torch.get_num_threads(),
        "torch": torch.__version__, "batches": [measure(engine, rows, said.rounds) for rows in BATCHES],
    }  # fmt: skip
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
