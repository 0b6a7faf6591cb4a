"""tokens on disk → batches of rows, one way each. Run as a fresh process: `python -m tests.bench.load_peers NAME JOB`.

JOB is JSON: shards (a shard set), folder (for a contestant's own form of the same tokens), seq_len, batch_size,
seconds. `prepare` writes that form; `drain` reads batches for so many seconds after one second of warming up and prints
JSON: tokens, wall and CPU seconds (all threads and children), seconds from opening to the first batch, bytes of state.
"""

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Job = dict[str, Any]
WARM = 1.0  # seconds before the clock starts


@dataclass
class Opened:
    """Batches without end, and what resuming would need."""

    batches: Iterator[object]
    state: Callable[[], object]


def picollm_ring(job: Job, out: str = "u16") -> Opened:
    """The Rust loader drained by NumPy: ids as stored, as they go to a GPU."""
    from picollm import _rustbpe

    rows, seq_len, slots = job["batch_size"], job["seq_len"], 5
    core = _rustbpe.Loader(
        [job["shards"]], weights=[1], split="train", fingerprints=[None], tokenizer=None, io="mmap", verify="sizes",
        limit=None, seed=1337, seq_len=seq_len, window=16_384, pack="bestfit", max_docs=None, shuffle="global",
        batch_size=rows, rows_per_step=rows, rank=0, world_size=1, out=out, bounds=False, mask_boundaries=False,
        epochs=None, threads=1,
    )  # fmt: skip
    if out == "u16":
        memory = [(np.empty((rows, seq_len + 1), np.uint16), np.empty(rows, np.int32)) for _ in range(slots)]
    else:
        memory = [(np.empty((rows, seq_len), np.int32), np.empty((rows, seq_len), np.int64)) for _ in range(slots)]
    core.start([(first.ctypes.data, second.ctypes.data, 0) for first, second in memory], memory)

    def batches() -> Iterator[object]:
        while True:
            core.release()
            slot = core.next()
            assert slot is not None
            yield memory[slot]

    return Opened(batches(), core.state)


def picollm_wide(job: Job) -> Opened:
    """The same with int32 inputs and int64 targets, as a CPU trains on."""
    return picollm_ring(job, out="i32i64")


def picollm_stream(job: Job) -> Opened:
    """`Stream`, as the trainer calls it, to torch tensors."""
    from picollm.loader.stream import Stream

    rows = job["batch_size"]
    stream = Stream(job["shards"], seq_len=job["seq_len"], batch_size=rows, rows_per_step=rows, threads=1)
    return Opened(iter(stream.next_step, None), stream.state_dict)


def nanochat_twin(job: Job) -> Opened:
    """nanochat's best fit or crop, on ids that are already there, into torch tensors."""
    import torch
    from tests.reference.bestfit_crop import crop_rows

    def documents() -> Iterator[list[int]]:
        for path in itertools.cycle(sorted(Path(job["shards"]).glob("train_*.bin"))):
            tokens = np.memmap(path, "<u2", "r", 1024)
            offsets = np.load(path.with_name(path.stem + ".docs.npy"))
            for start, end in itertools.pairwise(offsets.tolist()):
                yield tokens[start:end].tolist()

    def batches() -> Iterator[object]:
        rows = crop_rows(documents(), job["seq_len"] + 1)
        while True:
            batch = torch.tensor([row for row, _ in itertools.islice(rows, job["batch_size"])])
            yield batch[:, :-1].to(torch.int32), batch[:, 1:]

    return Opened(batches(), dict)


def stored_rows(job: Job) -> Iterator[np.ndarray]:
    """The tokens of the shards cut into rows of T + 1, for formats of fixed rows."""
    paths = sorted(Path(job["shards"]).glob("train_*.bin"))
    tokens = np.concatenate([np.fromfile(path, "<u2", offset=1024) for path in paths])
    width = job["seq_len"] + 1
    yield from tokens[: len(tokens) // width * width].reshape(-1, width)


def write_mosaic(job: Job) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=job["folder"], columns={"tokens": f"ndarray:uint16:{job['seq_len'] + 1}"}) as writer:
        for row in stored_rows(job):
            writer.write({"tokens": row})


def mosaic(job: Job) -> Opened:
    """MosaicML Streaming: shuffled local MDS through torch's DataLoader in this process."""
    import torch
    from streaming import StreamingDataset
    from torch.utils.data import DataLoader

    dataset = StreamingDataset(local=job["folder"], shuffle=True, batch_size=job["batch_size"], num_canonical_nodes=1)
    loader = DataLoader(dataset, batch_size=job["batch_size"], num_workers=0, drop_last=True)

    def batches() -> Iterator[object]:
        while True:
            for batch in loader:
                ids = batch["tokens"].to(torch.int64)
                yield ids[:, :-1].to(torch.int32), ids[:, 1:]

    return Opened(batches(), lambda: dataset.state_dict(0, True))


def write_litdata(job: Job) -> None:
    import litdata
    import torch
    from litdata.streaming.item_loader import TokensLoader

    rows = [row.copy() for row in stored_rows(job)]
    litdata.optimize(
        fn=lambda index: torch.from_numpy(rows[index]), inputs=list(range(len(rows))), output_dir=job["folder"],
        chunk_bytes="64MB", num_workers=1, item_loader=TokensLoader(block_size=job["seq_len"] + 1), verbose=False,
        start_method="fork",
    )  # fmt: skip


def litdata(job: Job) -> Opened:
    """litdata: its token loader, shuffled, through its DataLoader in this process."""
    import torch
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming.item_loader import TokensLoader

    dataset = StreamingDataset(
        job["folder"], item_loader=TokensLoader(block_size=job["seq_len"] + 1), shuffle=True, drop_last=True
    )
    loader = StreamingDataLoader(dataset, batch_size=job["batch_size"], num_workers=0)

    def batches() -> Iterator[object]:
        while True:
            for batch in loader:
                ids = batch.to(torch.int64)
                yield ids[:, :-1].to(torch.int32), ids[:, 1:]

    return Opened(batches(), loader.state_dict)


PREPARE: dict[str, Callable[[Job], None]] = {"mosaicml-streaming": write_mosaic, "litdata": write_litdata}
CONTESTANTS: dict[str, Callable[[Job], Opened]] = {
    "picollm, u16 to NumPy": picollm_ring,
    "picollm, i32+i64 to NumPy": picollm_wide,
    "picollm, Stream to torch": picollm_stream,
    "nanochat's algorithm": nanochat_twin,
    "mosaicml-streaming": mosaic,
    "litdata": litdata,
}


def drain(name: str, job: Job) -> dict[str, float]:
    began = time.perf_counter()
    opened = CONTESTANTS[name](job)
    next(opened.batches)
    first = time.perf_counter() - began
    taken(opened.batches, WARM)
    wall, cpu = time.perf_counter(), cpu_seconds()
    count = taken(opened.batches, job["seconds"])
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    state = len(json.dumps(opened.state(), default=str)) if name != "picollm, u16 to NumPy" else len(opened.state())
    tokens = count * job["batch_size"] * job["seq_len"]
    return {"tokens": tokens, "wall": wall, "cpu": cpu, "first": first, "state_bytes": state}


def taken(batches: Iterator[object], seconds: float) -> int:
    """How many batches came in so many seconds."""
    deadline = time.perf_counter() + seconds
    for count in itertools.count(1):
        next(batches)
        if time.perf_counter() >= deadline:
            return count
    raise AssertionError


def cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    what, name, job = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    answer = PREPARE[name](job) if what == "prepare" else drain(name, job)
    print("\x1e" + json.dumps(answer), flush=True)
    os._exit(0)  # peers leave threads and shared memory behind that wait for each other
