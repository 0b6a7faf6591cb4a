"""Shares of a plan whose files lie on a Hub: a task fetches what it reads, and the bytes are those of one machine."""

from pathlib import Path

import pytest
from tests.campaigns.crash import in_the_making, tree
from tests.hub import Hub, Repository
from tests.unit.hub.conftest import Run, fineweb

FILE_A_SEGMENT = ("--shard-tokens", "14000")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("picollm.corpus.patience.FIRST_WAIT_SECONDS", 0.01)


def done(found: tuple[int, str, str]) -> str:
    code, out, err = found
    assert code == 0, err
    return out


@pytest.mark.row("S11", "S13")
def test_tasks_fetch_their_own_files_and_end_in_the_bytes_of_one_machine(
    hub: Hub, edu: Repository, home: Path, run: Run
) -> None:
    done(run("shard", "fineweb-edu", "--out", str(home / "one"), *FILE_A_SEGMENT))
    out = str(home / "tasks")
    hub.log.clear()
    done(run("shard", "plan", "fineweb-edu", "--out", out, *FILE_A_SEGMENT))
    planned = edu.branches["main"]
    assert not hub.count("cdn", "GET", "/resolve/")
    edu.commit(fineweb(2, documents=10))  # the branch moves on; the plan does not
    hub.log.clear()
    hub.fault("cdn:003_", "flip", 1)
    done(run("shard", "run", out, "--task", "1/2", "--workers", "2"))
    fetched = {line.path.rsplit("/", 1)[-1][:4] for line in hub.log if line.server == "cdn" and line.status == 200}
    assert len(fetched) == 2, fetched
    assert all(planned in line.path for line in hub.log if "/resolve/" in line.path)
    code, _, err = run("shard", "finalize", out)
    assert (code, "picollm shard run" in err) == (4, True), err
    done(run("shard", "run", out, "--task", "0/2"))
    done(run("shard", "run", out, "--task", "0/2"))
    assert hub.count("cdn", "GET") == 5  # four files, and once more what came with wrong bytes
    assert hub.count("hub", "GET") == 0  # the plan says all there is to know
    done(run("shard", "finalize", out))
    assert tree(home / "tasks") == tree(home / "one")
    assert not in_the_making(home / "tasks")
    assert not list((home / "tasks").rglob("*.parquet"))


def test_a_task_whose_hub_is_out_of_reach_says_so_and_goes_on_later(
    hub: Hub, edu: Repository, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(home / "tasks")
    done(run("shard", "plan", "fineweb-edu", "--out", out))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code, _, err = run("shard", "run", out, "--task", "0/1")
    assert (code, "cannot be reached" in err) == (4, True), err
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    done(run("shard", "run", out, "--task", "0/1"))
    done(run("shard", "finalize", out))
