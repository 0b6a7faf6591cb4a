"""One file over a bad network, where more than a few megabytes matter; and a set that only `datasets` can read."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from tests.hub import Hub, sha256

from picollm.corpus import hub as hub_room
from picollm.corpus import patience
from picollm.corpus.source import SourceFile

STEP = 10 << 20  # the library keeps what it has in steps of this many bytes


@pytest.mark.row("S11")
@pytest.mark.parametrize("after", ["", "whole"])
def test_a_long_body_that_is_cut_goes_on_where_it_stopped(after: str, hub: Hub, tmp_path: Path) -> None:
    data = bytes(range(256)) * (12 << 12)
    commit = hub.add("owner/long", {"x.parquet": data}).branches["main"]
    hub.fault("cdn:x.parquet", "cut", 1, 11 << 20)
    if after:
        hub.fault("cdn:x.parquet", after)  # 200 where 206 was due: a clean restart, never a spliced file
    moved: list[int] = []
    file = SourceFile("x.parquet", len(data), sha256(data))
    shelf = hub_room.Shelf(hub_room.Hub.connect(), "owner/long", commit)
    shelf.fetch(file, tmp_path / "beside", tmp_path / "x.parquet", moved.append, threading.Event())
    assert (tmp_path / "x.parquet").read_bytes() == data
    ranges = [line.range for line in hub.log if line.server == "cdn"]
    assert ranges == [None, f"bytes={STEP}-"]


def test_what_is_neither_parquet_nor_jsonl_is_streamed_by_datasets(hub: Hub, home: Path) -> None:
    text = "of a small set, written for a test of csv files, long enough"
    rows = "".join(f'"document {number} {text}"\n' for number in range(30))
    hub.add("owner/csv", {"train.csv": f"text\n{rows}".encode()})
    command = [sys.executable, "-m", "picollm.cli.main", "shard", "owner/csv", "--val-ppm", "0"]
    for tokens in ("100", "all"):  # `datasets` reads HF_ENDPOINT when it is imported: a process of its own
        done = subprocess.run([*command, "--tokens", tokens], capture_output=True, text=True, check=False)
        assert (done.returncode, "30 documents" in done.stdout) == (0, True), done.stderr


@pytest.mark.row("S11")
@pytest.mark.parametrize("call", [lambda: None.request(), lambda: closed().get("http://127.0.0.1:9")])  # type: ignore[attr-defined]
def test_a_session_that_another_thread_dropped_is_a_lost_connection(call: Callable[[], object]) -> None:
    with pytest.raises(ConnectionError) as caught, patience.session_of_all():
        call()
    assert patience.passing(caught.value)
    with pytest.raises(AttributeError), patience.session_of_all():
        None.other  # type: ignore[attr-defined] # noqa: B018


def closed() -> httpx2.Client:
    client = httpx2.Client()
    client.close()
    return client
