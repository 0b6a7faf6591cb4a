"""How fast rows come out of shards, in tokens per second, drained without a model.

    python -m tests.bench.load [tokens] [seq_len] [batch_size]

Shards are made up: random ids, document lengths lognormal with mean 1,030 as in FineWeb-Edu, uint16, read hot.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tests.reference.shard_writer import write_set

from picollm.loader.stream import Stream

BOS = 65_527
MEAN, SIGMA = 1030, 1.05  # tokens; σ gives 23 % of tokens beyond 2,049, as measured on nanochat's data
RUNS = 5
PER_FILE = 8_000_000


def make_shards(folder: Path, tokens: int) -> Path:
    rng = np.random.default_rng(0)
    files = []
    for _ in range(max(1, tokens // PER_FILE)):
        lengths = np.exp(rng.normal(np.log(MEAN) - SIGMA**2 / 2, SIGMA, min(tokens, PER_FILE) // MEAN)).astype(int) + 2
        ids = rng.integers(0, BOS, lengths.sum(), dtype=np.uint16)
        ids[np.cumsum(lengths) - lengths] = BOS
        files.append(np.split(ids, np.cumsum(lengths)[:-1]))
    return write_set(folder, {"train": files})


def main(tokens: int = 64_000_000, seq_len: int = 2048, batch_size: int = 16) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shards = make_shards(Path(folder), tokens)
        for io in ("mmap", "pread"):
            for threads in (1, 2, 4):
                rates, first = [], []
                for _ in range(RUNS + 1):
                    began = time.perf_counter()
                    options = {"seq_len": seq_len, "batch_size": batch_size, "rows_per_step": batch_size}
                    with Stream(shards, **options, epochs=1, io=io, threads=threads) as stream:
                        stream.next_step()
                        first.append(time.perf_counter() - began)
                        for _ in range(stream.tokens // (batch_size * (seq_len + 1)) - 1):
                            stream.next_step()
                        read = stream.state_dict()["stored_tokens"]
                    rates.append(read / (time.perf_counter() - began))
                middle, low, high = statistics.median(rates[1:]), min(rates[1:]), max(rates[1:])
                print(
                    f"{io:5}  {threads} threads  {middle / 1e6:6.0f} M tok/s ({low / 1e6:.0f} … {high / 1e6:.0f})"
                    f"  first step after {1e3 * statistics.median(first[1:]):.1f} ms"
                )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
