"""What packing costs on real text: tokens dropped and padded, documents split, by packing and row length.

    just bench packing TOKENIZER PARQUET [PARQUET …]

Rows and stored tokens are the loader's own counts of one epoch (seed 1337, windows of 16,384 documents). A document is
split when it lies in more than one row, needlessly so when it is no longer than a row.
"""

import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
from tests.reference.rows import document_order

from picollm.corpus.source import open_source
from picollm.loader.stream import Stream
from picollm.shards.build import build

SEED, WINDOW, ROWS = 1337, 16_384, 64


def measure(shards: Path, pack: Literal["bestfit", "concat"], seq_len: int) -> str:
    row = seq_len + 1
    lengths = np.concatenate([np.diff(np.load(path)) for path in sorted(shards.glob("train_*.docs.npy"))]).astype(int)
    options = {"seq_len": seq_len, "batch_size": ROWS, "rows_per_step": ROWS, "window": WINDOW, "seed": SEED}
    with Stream(shards, pack=pack, epochs=1, **options) as stream:
        with suppress(StopIteration):
            while stream.next_step():
                pass
        rows, stored = stream.state_dict()["rows"], stream.state_dict()["stored_tokens"]
        key = bytes.fromhex(stream.fingerprints[0])
    if pack == "bestfit":
        split = lengths > row
        inserted = int(np.ceil((lengths[split] - row) / (row - 1)).sum())
    else:
        order = np.array(document_order(len(lengths), key, SEED, 0, 0, "global"))
        split = np.concatenate([crossing(lengths[order[i : i + WINDOW]], row) for i in range(0, len(order), WINDOW)])
        lengths, inserted = lengths[order], 0
    padded = rows * row - stored - inserted
    needless = split & (lengths <= row)
    size = rows * row
    shares = [padded / size, inserted / size, split.mean(), needless.mean()]
    cells = [pack, f"{seq_len:,}", f"{rows:,}", f"{lengths.sum() - stored:,}", *(f"{share:.3%}" for share in shares)]
    return f"| {' | '.join(cells)} |"


def crossing(lengths: np.ndarray, row: int) -> np.ndarray:
    """Which documents, laid end to end, lie on both sides of a row's end."""
    ends = np.cumsum(lengths)
    return (ends - lengths) // row != (ends - 1) // row


def main(tokenizer: Path, *corpora: str) -> None:
    for corpus in corpora:
        with tempfile.TemporaryDirectory() as folder:
            shards = Path(folder) / "set"
            build(open_source(corpus), tokenizer, shards, val_ppm=0)
            print(f"\n{Path(corpus).name}")
            print(
                "| packing | T | rows | dropped | padding | BOS put in | documents split | … that would have fitted |"
            )
            print("|---|---|---|---|---|---|---|---|")
            for seq_len in (1024, 2048, 4096):
                for pack in ("bestfit", "concat"):
                    print(measure(shards, pack, seq_len))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
