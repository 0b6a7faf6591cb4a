"""Write tests/golden/run: the files of a made-up run of 60 steps, and the report that is expected of it.

PYTHONPATH=python python tests/golden/make_run.py        then read the diff before committing it
"""

import json
import math
from pathlib import Path

from picollm.plan.facts import DataFacts
from picollm.plan.request import TrainRequest
from picollm.plan.resolve import resolve
from picollm.report.page import write_report
from picollm.report.run import Run
from picollm.runtime.machine import Machine

RUN = Path(__file__).parent / "run"
STEPS, TOKENS_PER_STEP = 60, 4096


def metrics() -> list[dict[str, object]]:
    lines: list[dict[str, object]] = [{"v": 1, "t": 0.0, "kind": "run"}]
    clock = 2.0

    def evaluate(step: int) -> None:
        bpb = 1.9 + 1.63 * math.exp(-step / 15) + (0.08 if step == STEPS else 0.0)
        fields = {"step": step, "name": "val", "bpb": round(bpb, 4), "n": 16384, "set_hash": "00f1e2d3c4b5a697"}
        lines.append({"v": 1, "t": round(clock, 3), "kind": "eval", **fields, "seconds": 0.5})

    evaluate(0)
    for step in range(1, STEPS + 1):
        clock += 0.94
        noise = 0.11 * math.sin(12.9898 * step**2)
        rate = min(1.0, step / 6) * min(1.0, max(0.05, (STEPS - step) / 30))
        lines.append(
            {
                "v": 1,
                "t": round(clock, 3),
                "kind": "step",
                "step": step,
                "tokens": step * TOKENS_PER_STEP,
                "loss": round(4.4 + 3.92 * math.exp(-step / 12) + noise, 4),
                "lr_mult": round(rate, 4),
                "dt_ms": 940.0 + step % 3,
                "data_wait_ms": 1.5,
                "tok_s": 4357.4 - step % 3,
                "mfu_bf16": 0.48,
                "mem_peak": 612_368_384,
                "flags": ["warm"] if step <= 10 else [],
            }
        )
        if step % 10 == 0:
            clock += 0.5
            evaluate(step)
    save = {"step": STEPS, "path": "checkpoints/step-0000000060", "bytes": 23_068_672, "seconds": 0.12}
    lines.append({"v": 1, "t": round(clock + 0.12, 3), "kind": "save", **save})
    lines.append({"v": 1, "t": round(clock + 0.2, 3), "kind": "stop", "step": STEPS, "reason": "finished", "code": 0})
    return lines


def plan() -> dict[str, object]:
    data = DataFacts("stdlib", "shards/quickstart", "5ab1" * 16, "70c2" * 16, 4096, 3_300_000, 180_000, 620, 40,
                     11_200_000, 600_000)  # fmt: skip
    request = TrainRequest(
        depth=4, hidden_size=128, heads=4, max_seq_len=256, window_pattern="L", total_batch_size=TOKENS_PER_STEP,
        num_iterations=STEPS, name="run", device="cpu",
    )  # fmt: skip
    made = resolve(request, Machine.cpu(41e9), data)
    hashes = {"shards": data.fingerprint, "tokenizer": data.tokenizer_sha256}
    return {"format": "picollm-run/1", "plan": made.to_json(), "versions": {"torch": "2.13.0"}, "hashes": hashes}


def write() -> None:
    (RUN / "evals").mkdir(parents=True, exist_ok=True)
    (RUN / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics()))
    kept = RUN / "plan.json"
    if not kept.exists():  # what is tested is the report; a plan resolves differently from month to month
        kept.write_text(json.dumps(plan(), indent=1, sort_keys=True) + "\n")
    base = {"unigram": 2.91, "bigram": 2.64, "gzip": 2.21, "gzip+train": 2.6}
    found = {name: {"bpb": value} for name, value in base.items()}
    say = {
        "baselines": {"v": 1, "set_hash": "00f1e2d3c4b5a697", "baselines": found},
        "replies": {"v": 1, "replies": [{"prompt": "what is 3 + 4?", "reply": "7"}, {"prompt": "hi", "reply": "*hi*"}]},
        "facts": {"v": 1, "trained": {"sum": {"right": 38, "n": 40}}, "held_out": {"sum": {"right": 3, "n": 7}}},
    }
    for name, value in say.items():
        (RUN / "evals" / f"{name}.json").write_text(json.dumps(value) + "\n")
    (RUN / "exit.json").write_text('{"code": 0, "reason": "finished"}\n')
    write_report(Run.read(RUN))


if __name__ == "__main__":
    write()
