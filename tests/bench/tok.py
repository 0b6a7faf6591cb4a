"""picollm's side of the tokenizer benches beside the checkout: the hooks that their README asks for.

The regexes are those of their `peers.PATTERNS`; each is one of our named patterns in a spelling that peers know.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from picollm import _rustbpe
from picollm.tok.tokenizer import Tokenizer
from picollm.tok.train import Pattern, train_on_texts

ENCODERS = "gigatoken,fastokens,snaptokens,tiktoken"


def named(regex: str) -> Pattern:
    """The named pattern that a bench means."""
    if r"\p{N}{1,3}" in regex:
        return "cl100k"
    return "picollm" if r"\p{N}{1,2}" in regex else "gpt2"


def train(docs: Sequence[str], vocab_size: int, pattern: str, threads: int) -> dict[bytes, int]:
    """Ranks learned from documents; their `vocab_size` counts no special token."""
    made = train_on_texts(docs, min(65_536, vocab_size + 9), pattern=named(pattern), workers=threads)
    return dict(made.ranks())


def encoder(ranks: dict[bytes, int], pattern: str, threads: int) -> Callable[[Sequence[str]], Any]:
    """Texts → (ids as uint16, lengths)."""
    coder = Tokenizer(_rustbpe.Tokenizer.from_ranks(list(ranks.items()), named(pattern)))
    narrow = len(ranks) <= 1 << 16

    def encode(docs: Sequence[str]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        ids, offsets = coder.core.encode_batch(docs, threads, narrow)
        return np.frombuffer(ids, np.uint16 if narrow else np.uint32), np.diff(np.frombuffer(offsets, np.int64))

    return encode


def main(quick: bool) -> int:
    """Run the benches beside the checkout, ours among the peers. `PICOLLM_PEERS` is the Python that has the peers."""
    shared = Path(os.environ.get("PICOLLM_SHARED", "../shared")).resolve()
    root = Path(__file__).resolve().parents[2]
    python = os.environ.get("PICOLLM_PEERS", sys.executable)
    corpora = shared / "data" / "bench_corpus"
    encode = ["bench_encode.py", "--ours", "tests.bench.tok:encoder", "--warm", "1"]
    train = ["bench_train.py", "--ours", "tests.bench.tok:train"]
    jobs = [
        [*train, "--pattern", "gpt2", "--peers", "gigabpe" if quick else "gigabpe,rustbpe,tokenizers"],
        *([*encode, "--threads", threads, "--peers", ENCODERS] for threads in ("1", "2")),
        [*encode, "--corpus", str(corpora / "code_20.parquet"), "--peers", ENCODERS],
        [*encode, "--corpus", str(corpora / "multi_20.parquet"), "--peers", ENCODERS],
        [*encode, "--threads", "1", "--pattern", "picollm", "--peers", "none"],
        ["bench_patho.py", "--ours", "tests.bench.tok:encoder", "--peers", "none" if quick else ENCODERS],
    ]
    kept = ["--cache", str(root / "target/bench-tok"), "--json", str(root / "target/bench-tok.jsonl")]
    env = {**os.environ, "PYTHONPATH": f"{root / 'python'}:{root}"}
    failed = 0
    for job in jobs:
        script, *options = job
        repeats = ["--repeats", "3" if quick else "5"] if script != "bench_patho.py" else []
        command = [python, str(shared / "bench" / script), *options, *repeats, *kept]
        failed += subprocess.run(command, env=env, check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main("--quick" in sys.argv))
