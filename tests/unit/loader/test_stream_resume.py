"""A state taken anywhere continues the exact stream: in another process, under other ranks, threads and buffers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.reference.shard_writer import write_set
from tests.unit.loader.toy import BOS, Rows, ranks, read

from picollm.loader.stream import Stream

CHANGES = [
    {"n": 1, "batch_size": 64, "rows_per_step": 64, "threads": 1, "prefetch": 0, "io": "mmap"},
    {"n": 2, "batch_size": 32, "rows_per_step": 120, "threads": 3, "prefetch": 1, "io": "pread", "out": "u16"},
    {"n": 3, "batch_size": 16, "rows_per_step": 48, "threads": 2, "prefetch": 8, "io": "mmap", "cu_seqlens": True},
    {"n": 1, "batch_size": 50, "rows_per_step": 50, "threads": 4, "prefetch": 1, "io": "pread"},
]
OTHER_PROCESS = """
import json, sys
import numpy as np
from tests.unit.loader.test_stream_resume import CHANGES, ended
from tests.unit.loader.toy import ranks, read

shards, rows, states = sys.argv[1:]
unbroken = np.load(rows)
for index, state in enumerate(json.load(open(states))):
    streams = ranks(shards, **CHANGES[index % len(CHANGES)])
    for stream in streams:
        stream.load_state_dict(state)
        assert stream.state_dict() == state
    if index == len(unbroken):
        assert all(ended(stream) for stream in streams)
    else:
        np.testing.assert_array_equal(read(streams), unbroken[index:], err_msg=f"after {index} rows")
print(index)
"""


def ended(stream: Stream) -> bool:
    try:
        stream.next_step()
    except StopIteration:
        return True
    return False


@pytest.mark.row("L1")
@pytest.mark.slow
def test_every_state_continues_the_exact_stream_in_another_process_and_shape(
    shards: Path, unbroken: Rows, tmp_path: Path
) -> None:
    (stream,) = ranks(shards, 1)
    states = [stream.state_dict()]
    for _ in range(len(unbroken)):
        stream.next_step()
        states.append(stream.state_dict())
    rows, saved = tmp_path / "rows.npy", tmp_path / "states.json"
    np.save(rows, unbroken)
    saved.write_text(json.dumps(states))
    command = [sys.executable, "-c", OTHER_PROCESS, shards, rows, saved]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE)
    assert int(done.stdout) == len(unbroken) > 600


@pytest.mark.row("L2")
def test_ranks_may_come_and_go_within_an_epoch(shards: Path, unbroken: Rows) -> None:
    seen, state = [], None
    for n, batch_size, rows_per_step, steps in [(1, 5, 10, 3), (2, 2, 12, 4), (4, 1, 9, 5), (3, 7, 40, None)]:
        streams = ranks(shards, n, batch_size=batch_size, rows_per_step=rows_per_step)
        for stream in streams:
            if state is not None:
                stream.load_state_dict(state)
        seen.append(read(streams, steps))
        states = [stream.state_dict() for stream in streams]
        assert all(other == states[0] for other in states)
        state = states[0]
    np.testing.assert_array_equal(np.concatenate(seen), unbroken)


@pytest.mark.row("L1")
@pytest.mark.slow
def test_random_states_of_a_large_set_continue_the_exact_stream(tmp_path: Path) -> None:
    """More than 65,536 documents, so that their order is the cipher's; the whole rest is compared."""
    rng = np.random.default_rng(0)
    lengths = rng.geometric(1 / 20, 70_000) + 1
    ids = rng.integers(0, BOS, lengths.sum(), dtype=np.uint16)
    ids[np.cumsum(lengths) - lengths] = BOS
    shards = write_set(tmp_path, {"train": [np.split(ids, np.cumsum(lengths)[:-1])]})
    rows = 256
    options = {"seq_len": 64, "epochs": 1}
    inputs, targets, states = walk(Stream(shards, **options, batch_size=1, rows_per_step=1, prefetch=64))
    assert len(inputs) > 20_000
    for number, index in enumerate(rng.integers(0, len(inputs), 200).tolist()):
        out, threads = ("u16", "i32i64")[number % 2], 1 + number % 3
        with Stream(shards, **options, batch_size=rows, rows_per_step=rows, threads=threads, out=out) as stream:
            stream.load_state_dict(states[index])
            for at in range(index, len(inputs), rows):
                (batch,) = stream.next_step()
                count = min(rows, len(inputs) - at)
                assert np.array_equal(batch.inputs[:count].numpy(), inputs[at : at + count]), (index, at)
                assert np.array_equal(batch.targets[:count].numpy(), targets[at : at + count]), (index, at)


def walk(stream: Stream) -> tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]:
    """Inputs and targets of every row, and the state before each."""
    inputs, targets, states = [], [], []
    while True:
        state = stream.state_dict()
        try:
            (batch,) = stream.next_step()
        except StopIteration:
            return np.concatenate(inputs), np.concatenate(targets), states
        states.append(state)
        inputs.append(batch.inputs.numpy().copy())
        targets.append(batch.targets.numpy().copy())
