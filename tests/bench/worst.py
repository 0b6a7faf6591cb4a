"""Encoding of text made to be slow: time by length, doubled until ten million characters. `just bench worst`.

    python -m tests.bench.worst [--most 10000000] [--line 100000000] [--out FILE.json]

65,536 ids learned on the bench corpus, one thread, a cache that has seen a sentence; CPU seconds of one call (row T2).
Then one line of prose without an end, on all threads. The exponent is fitted to the lengths above 100,000.
"""

import argparse
import json
import os
import time
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from picollm.tok.tokenizer import Tokenizer
from picollm.tok.train import train_on_texts

UNITS = {
    "one letter": "a",
    "one mark": "^",
    "digits": "0",
    "apostrophes": "'s",
    "spaces": " ",
    "newlines": "\n",
    "underscores": "_",
    "alternating pair": "ab",
    "alternating classes": "a1",
    "spaces and x": "  x",
    "zero-width joiners": "\u200d",
    "combining marks": "e\u0301",
    "one Chinese character": "日",
}


def inputs(most: int) -> dict[str, bytes]:
    """Name → text of `most` characters, or bytes where it is none."""
    chance = Random(1337)
    letters = "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=most))
    made = {name: (unit * (most // len(unit) + 1))[:most].encode() for name, unit in UNITS.items()}
    chinese = "".join(map(chr, chance.choices(range(0x4E00, 0x9FA5), k=most)))
    return {**made, "0x80": b"\x80" * most, "random letters": letters.encode(), "random Chinese": chinese.encode()}


def cpu_seconds(coder: Tokenizer, text: bytes) -> float:
    """Of one call on one thread, by a fresh tokenizer that has encoded a sentence."""
    fresh = Tokenizer.load_bytes(coder.core.to_json(), Path("worst"))
    fresh.core.encode_batch(["A sentence, 123 times."], 1)
    began = time.process_time()
    fresh.core.encode_batch([text], 1, True)
    return time.process_time() - began


def grown(coder: Tokenizer, text: bytes) -> dict[str, Any]:
    """Seconds by length, each length twice the one before."""
    lengths = [len(text) >> back for back in range(7, -1, -1)]
    seconds = [cpu_seconds(coder, text[:length]) for length in lengths]
    known = [(length, took) for length, took in zip(lengths, seconds, strict=True) if length >= 100_000 and took > 0]
    exponent = np.polyfit(*np.log(np.array(known).T), 1)[0]
    ratios = [after / max(before, 1e-9) for before, after in zip(seconds[-4:], seconds[-3:], strict=False)]
    return {
        "bytes": lengths,
        "seconds": [round(took, 4) for took in seconds],
        "exponent": round(float(exponent), 3),
        "last_doublings": [round(ratio, 2) for ratio in ratios],
        "mb_per_s": round(len(text) / 1e6 / seconds[-1], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--most", type=int, default=10**7)
    parser.add_argument("--line", type=int, default=10**8)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    corpus = Path(os.environ.get("PICOLLM_SHARED", "../shared")) / "data/bench_corpus/english_100.parquet"
    texts = pq.read_table(corpus, columns=["text"]).column(0).to_pylist()
    coder = train_on_texts(texts[:20_000], 65_536)
    prose = "".join(texts[20_000:])
    line = prose.replace("\n", " ").encode()
    line = (line * (asked.line // len(line) + 1))[: asked.line]
    rows = {"prose": grown(coder, prose.encode()[: asked.most])}
    rows |= {name: grown(coder, text) for name, text in inputs(asked.most).items()}
    print(f"{'':22}{'ms, longest':>12}{'MB/s':>8}{'exponent':>10}  ratios of the last doublings")
    for name, row in rows.items():
        print(f"{name:22}{1000 * row['seconds'][-1]:12.1f}{row['mb_per_s']:8.1f}{row['exponent']:10.3f}  ", end="")
        print(*row["last_doublings"])
    began = time.perf_counter()
    coder.core.encode_batch([line], None, True)
    whole = time.perf_counter() - began
    print(f"one line of {len(line) / 1e6:.0f} MB, all threads: {whole:.2f} s, {len(line) / 1e6 / whole:.0f} MB/s")
    if asked.out:
        found = {"rows": rows, "line": {"bytes": len(line), "seconds": round(whole, 3), "threads": os.cpu_count()}}
        asked.out.write_text(json.dumps({"seed": 1337, "most": asked.most, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
