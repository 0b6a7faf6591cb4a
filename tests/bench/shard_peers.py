"""parquet → uint16 tokens on disk, one way each. Run as a fresh process: `python -m tests.bench.shard_peers NAME JOB`.

JOB is JSON: corpus (parquet), tokenizer (folder), out (empty folder), marker (id beside each document). Prints JSON:
`parts`, the files and the bytes before their tokens, in order; and what only the contestant itself can know.
"""

import json
import re
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

Job = dict[str, Any]
Answer = dict[str, Any]
BATCH = 1000  # documents at a time, for those who choose it


def picollm(job: Job) -> Answer:
    """The command a user types, whole."""
    from picollm.cli.main import main

    out, code = Path(job["out"]) / "set", 0
    try:
        main(["shard", job["corpus"], "--tokenizer", job["tokenizer"], "--out", str(out), "--val-ppm", "0",
              "--workers", "1"])  # fmt: skip
    except SystemExit as end:
        code = int(end.code or 0)
    assert code == 0, code
    return {"parts": [(str(path), 1024) for path in sorted(out.glob("train_*.bin"))]}


def picollm_stages(job: Job) -> Answer:
    """The same work by its function, with the seconds of its stages."""
    from picollm.corpus.source import open_source
    from picollm.shards.build import build

    counters: dict[str, int] = {}
    out, ready = Path(job["out"]) / "set", time.process_time()
    build(open_source(job["corpus"]), Path(job["tokenizer"]), out, val_ppm=0, workers=1, progress=counters.update)
    used, bytes_ = time.process_time() - ready, counters["bytes"]
    stages = {
        "encode": counters["encode_ns"] / 1e9,
        "write": counters["write_ns"] / 1e9,
        "all": used,
        "start-up": ready,
    }
    return {"parts": [(str(path), 1024) for path in sorted(out.glob("train_*.bin"))], "stages": stages, "bytes": bytes_}


def gigatoken(job: Job) -> Answer:
    """Its file source; its ids then go to uint16 through NumPy, since it writes no files."""
    import awkward
    import gigatoken

    tokenizer = gigatoken.Tokenizer(str(Path(job["tokenizer"]) / "tokenizer.json"))
    ids = tokenizer.encode_files(gigatoken.ParquetFileSource([job["corpus"]], "text"), parallel=False)
    layout = awkward.to_packed(ids).layout
    return {"parts": [write(job, [interleave(np.asarray(layout.content.data), np.asarray(layout.offsets.data), job)])]}


def datasets_tiktoken(job: Job) -> Answer:
    """`datasets.map` with tiktoken's batch call, then one file, as small trainers prepare their data."""
    import tiktoken
    from datasets import Dataset, disable_caching, disable_progress_bars

    disable_progress_bars()
    disable_caching()
    ranks, pattern = tiktoken_ranks(Path(job["tokenizer"]))
    encoding = tiktoken.Encoding("bench", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})

    def encode(rows: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return {"ids": [[job["marker"], *ids] for ids in encoding.encode_ordinary_batch(rows["text"], num_threads=1)]}

    texts = Dataset.from_parquet(job["corpus"], columns=["text"], cache_dir=job["out"])
    encoded = texts.map(encode, batched=True, batch_size=BATCH, remove_columns=["text"]).with_format("arrow")
    batches = encoded.iter(BATCH)
    return {"parts": [write(job, (table["ids"].combine_chunks().flatten().to_numpy() for table in batches))]}


def datatrove(job: Job) -> Answer:
    """Its reader and its `DocumentTokenizer`, in this process."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    corpus, out = Path(job["corpus"]), Path(job["out"])
    reader = ParquetReader(str(corpus.parent), glob_pattern=corpus.name, text_key="text", id_key="source")
    writer = DocumentTokenizer(
        str(out / "tokens"), tokenizer_name_or_path=str(Path(job["tokenizer"]) / "tokenizer.json"), eos_token=None,
        shuffle_documents=False, batch_size=BATCH, max_tokens_per_file=10**10,
    )  # fmt: skip
    LocalPipelineExecutor([reader, writer], tasks=1, workers=1, logging_dir=str(out / "log")).run()
    return {"parts": [(str(path), 0) for path in sorted((out / "tokens").glob("*.ds"))]}


def interleave(ids: np.ndarray, offsets: np.ndarray, job: Job) -> np.ndarray:
    """uint16 ids with the marker before each document. offsets (documents + 1)."""
    starts = offsets[:-1].astype(np.int64) + np.arange(len(offsets) - 1)
    out = np.empty(len(ids) + len(starts), np.uint16)
    body = np.ones(len(out), bool)
    body[starts] = False
    out[starts], out[body] = job["marker"], ids
    return out


def write(job: Job, arrays: Iterable[np.ndarray]) -> tuple[str, int]:
    path = Path(job["out"]) / "tokens.bin"
    with path.open("wb") as file:
        for array in arrays:
            array.astype(np.uint16, copy=False).tofile(file)
    return str(path), 0


def tiktoken_ranks(folder: Path) -> tuple[dict[bytes, int], str]:
    """Ranks of a tokenizer.json without its special tokens, and its pattern."""
    body = json.loads((folder / "tokenizer.json").read_text())
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shown = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in shown)
    shown |= {byte: chr(256 + number) for number, byte in enumerate(others)}
    bytes_of = {text: byte for byte, text in shown.items()}
    special = {token["content"] for token in body["added_tokens"]}
    vocab = {text: rank for text, rank in body["model"]["vocab"].items() if text not in special}
    (pattern,) = re.findall(r'"Regex": ("(?:[^"\\]|\\.)*")', json.dumps(body["pre_tokenizer"]))
    return {bytes(bytes_of[char] for char in text): rank for text, rank in vocab.items()}, json.loads(pattern)


CONTESTANTS: dict[str, Callable[[Job], Answer]] = {
    "picollm": picollm,
    "picollm-stages": picollm_stages,
    "gigatoken": gigatoken,
    "datasets+tiktoken": datasets_tiktoken,
    "datatrove": datatrove,
}


if __name__ == "__main__":
    print("\x1e" + json.dumps(CONTESTANTS[sys.argv[1]](json.loads(sys.argv[2]))))
