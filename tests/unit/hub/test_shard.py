"""`picollm shard` from a Hub on this machine: exact requests, and the same bytes whatever the network does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.campaigns.crash import tree
from tests.hub import Hub, Repository, sha256
from tests.unit.hub.conftest import REPO, Run, fineweb, parquet, sentences

from picollm.corpus import hub as hub_room
from picollm.corpus import supply
from picollm.shards import build as building

SAMPLE = "sample/10BT"
FIRST = f"{SAMPLE}/000_00000.parquet"
SECOND = f"{SAMPLE}/001_00000.parquet"
FILE_A_SEGMENT = ("--shard-tokens", "14000")
OFFLINE = "picollm tok train --vocab-size 65536 --dataset-name stdlib"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("picollm.corpus.patience.FIRST_WAIT_SECONDS", 0.01)


def test_the_requests_are_those_of_the_budget_and_a_second_run_makes_none(
    hub: Hub, edu: Repository, home: Path, run: Run
) -> None:
    code, out, err = run("shard", "fineweb-edu")
    assert code == 0, err
    assert "fetch 4 of 4 files" in err
    assert "picollm shard fineweb-edu-shuffled --tokens 100M" in err
    counts = [hub.count("hub", "GET", "/api/"), hub.count("hub", "HEAD"), hub.count("cdn", "GET")]
    assert counts == [2, 4, 4]  # one for the commit, one page of the tree
    assert len(hub.log) == 10
    hub.log.clear()
    again = run("shard", "fineweb-edu")
    assert again[:2] == (code, out), again
    assert not hub.log
    assert not list((home / "shards" / "fineweb-edu").rglob("*.parquet"))


def test_every_page_of_the_tree_is_read(hub: Hub, edu: Repository, home: Path, run: Run) -> None:
    hub.page = 2
    code, _, err = run("shard", "fineweb-edu")
    assert code == 0, err
    assert "fetch 4 of 4 files" in err
    assert hub.count("hub", "GET", "/tree/") == 2


def test_credentials_stay_with_the_hub(
    hub: Hub, edu: Repository, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    edu.gated = True
    assert run("shard", "fineweb-edu")[0] == 0
    assert all(line.auth == (line.server == "hub") for line in hub.log)


@pytest.fixture
def clean(hub: Hub, edu: Repository, home: Path, run: Run) -> dict[str, bytes]:
    """The tree that an undisturbed network gives."""
    out = home / "clean"
    code, _, err = run("shard", "fineweb-edu", "--out", str(out))
    assert code == 0, err
    hub.log.clear()
    return tree(out)


FAULTS = {
    "rate limit on the head": [("HEAD 000_00000", "rate-limit", 1, 1)],
    "busy api": [("/api/", "status", 2, 503)],
    "burst of 503": [("cdn:", "status", 3, 503)],
    "each kind of 5xx": [
        ("cdn:000_", "status", 1, 500),
        ("cdn:000_", "status", 1, 502),
        ("cdn:001_", "status", 1, 504),
    ],
    "cut body": [("cdn:000_", "cut", 1, 5000)],
    "wrong bytes once": [("cdn:001_", "flip", 1, None)],
    "reset": [("cdn:002_", "reset", 2, None)],
    "wrong length": [("cdn:000_", "length", 1, 10)],
    "expired address": [("cdn:003_", "status", 1, 403)],
}


@pytest.mark.row("S11")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_network_does_not_show_in_the_bytes(
    fault: str, clean: dict[str, bytes], hub: Hub, home: Path, run: Run
) -> None:
    for part, kind, times, value in FAULTS[fault]:
        hub.fault(part, kind, times, value)
    out = home / "disturbed"
    code, _, err = run("shard", "fineweb-edu", "--out", str(out))
    assert code == 0, err
    assert tree(out) == clean
    assert not any(left.times for faults in hub.faults.values() for left in faults)


@pytest.mark.row("S11")
def test_no_request_comes_before_the_time_that_the_hub_names(hub: Hub, edu: Repository, home: Path, run: Run) -> None:
    hub.fault("/api/", "rate-limit", 1, 1)
    assert run("shard", "fineweb-edu")[0] == 0
    refused, after = hub.log[:2]
    assert (refused.status, after.at - refused.at >= 1) == (429, True)


@pytest.mark.row("S11")
def test_bytes_that_stay_wrong_are_refused_with_both_hashes(hub: Hub, edu: Repository, home: Path, run: Run) -> None:
    hub.fault("cdn:001_", "flip", -1)
    code, _, err = run("shard", "fineweb-edu", "--workers", "1")
    listed = sha256(edu.commits[edu.branches["main"]][SECOND])
    assert (code, listed in err, "sha256" in err) == (1, True, True), err
    assert not (home / "shards" / "fineweb-edu" / "manifest.json").exists()
    assert hub.count("cdn", "GET", "001_") == 2
    hub.faults.clear()
    assert run("shard", "fineweb-edu")[0] == 0


def test_a_hub_that_stays_broken_is_a_named_error_and_other_files_are_kept(
    hub: Hub, edu: Repository, home: Path, run: Run
) -> None:
    hub.fault("cdn:003_", "status", -1, 503)
    code, _, err = run("shard", "fineweb-edu", "--workers", "1")
    assert (code, "503" in err, "003_00000.parquet" in err) == (1, True, True), err
    hub.faults.clear()
    assert run("shard", "fineweb-edu")[0] == 0


@pytest.mark.parametrize("spec", ["fineweb-edu", "HuggingFaceFW/fineweb-edu", "hf://owner/name", "tinystories"])
def test_a_hub_out_of_reach_names_the_line_that_works_offline(
    spec: str, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code, _, err = run("shard", spec)
    assert (code, OFFLINE in err) == (4, True), err


def test_a_commit_is_pinned_when_the_branch_moves(hub: Hub, edu: Repository, home: Path, run: Run) -> None:
    first = edu.branches["main"]
    code, _, err = run("shard", "fineweb-edu", "--tokens", "100")
    assert code == 0, err
    edu.commit(fineweb(2, documents=10))
    code, _, err = run("shard", "fineweb-edu")
    assert code == 0, err
    assert all(first in line.path for line in hub.log if "/resolve/" in line.path)
    assert first in (home / "shards" / "fineweb-edu" / "manifest.json").read_text()
    code, _, err = run("shard", "fineweb-edu", "--revision", "main")
    assert (code, "--out DIR" in err) == (3, True), err


def test_only_the_files_that_the_tokens_take_are_fetched(hub: Hub, edu: Repository, home: Path, run: Run) -> None:
    assert run("shard", "fineweb-edu", "--tokens", "100", "--workers", "4", *FILE_A_SEGMENT)[0] == 0
    assert hub.count("cdn", "GET") == 1
    assert run("shard", "fineweb-edu")[0] == 0
    assert hub.count("cdn", "GET") <= 5


def test_the_disk_holds_no_more_than_asked(hub: Hub, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    files = fineweb(6)
    hub.add(REPO, files)
    size = len(files[FIRST])
    most = 0
    bring = supply.Supply._bring

    def watched(self: supply.Supply, file: supply.FileFacts) -> None:
        nonlocal most
        most = max(most, self.held)
        bring(self, file)

    monkeypatch.setattr(supply.Supply, "_bring", watched)
    code, _, err = run("shard", "fineweb-edu", "--max-disk", str(3 * size), *FILE_A_SEGMENT)
    assert code == 0, err
    assert 0 < most <= 3 * size
    assert run("shard", "fineweb-edu", "--out", str(home / "tight"), "--max-disk", "1", *FILE_A_SEGMENT)[0] == 0


def test_a_full_disk_is_refused_before_the_first_file(
    hub: Hub, edu: Repository, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(building.shutil, "disk_usage", lambda path: usage)
    code, _, err = run("shard", "fineweb-edu")
    assert (code, "GB are needed" in err, "GB are free" in err) == (3, True, True), err
    assert not hub.count("cdn", "GET")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["fineweb-edu", "--dataset-config", "sample-10BX"], 2, 'did you mean "sample-10BT"'),
        (["fineweb-edu", "--dataset-split", "test"], 2, 'no split "test"; (train)'),
        (["fineweb-edu", "--text-column", "txt"], 2, "url"),
        (["fineweb-edu", "--revision", "nowhere"], 2, "main"),
        (["owner/none"], 4, "no such data set"),
        (["owner/gated"], 4, "HF_TOKEN"),
        (["owner/empty"], 4, "no parquet or jsonl"),
        (["owner/nasty"], 3, "not safe to write"),
        (["owner/twins"], 3, "upper and lower case"),
    ],
)
def test_a_mistake_has_its_exit_code_and_names_what_there_is(
    words: list[str], code: int, says: str, hub: Hub, edu: Repository, home: Path, run: Run
) -> None:
    rows = parquet(sentences(5, 1))
    hub.add("owner/gated", {"x.parquet": rows}, gated=True)
    hub.add("owner/empty", {"README.md": b"#"})
    hub.add("owner/nasty", {"data/../../x.parquet": rows})
    hub.add("owner/twins", {"data/x.parquet": rows, "data/X.parquet": rows})
    found, _, err = run("shard", *words)
    assert (found, says in err) == (code, True), err
    assert not hub.count("cdn", "GET", "/resolve/")


@pytest.mark.row("S12")
@pytest.mark.parametrize("name", ["../x", "/x", "a//x", "a\\x", "a\0x", "C:x", "x" * 256, "..", "．．/x", " x", "a/\n"])
def test_hostile_names_are_refused(name: str) -> None:
    with pytest.raises(hub_room.listing.SourceError):
        hub_room.listing.check_names("owner/name", [f"{name}.parquet" if name != ".." else name])


@pytest.mark.row("S12")
@given(name=st.text(max_size=40) | st.text("./\\ :aAü\0\n．", max_size=12))
def test_a_name_that_is_accepted_stays_below_the_folder(name: str) -> None:
    try:
        hub_room.listing.check_names("owner/name", [name])
    except hub_room.listing.SourceError:
        return
    root = Path("/root/of/files")
    assert root in Path(os.path.normpath(root / name)).parents
    assert all(len(part.encode()) <= 255 for part in name.split("/"))
    assert name.isascii()


def test_a_dump_is_a_config_under_both_schemes_of_names(hub: Hub, edu: Repository, home: Path, run: Run) -> None:
    edu.card = {
        "configs": [
            {"config_name": f"CC-MAIN-{dump}", "data_files": [{"split": "train", "path": f"data/CC-MAIN-{dump}/*"}]}
            for dump in ("2013-20", "2024-10")
        ]
    }
    for dump, documents in (("CC-MAIN-2013-20", 50), ("CC-MAIN-2024-10", 60)):
        out = str(home / dump)
        code, said, err = run("shard", "fineweb-edu", "--dataset-config", dump, "--out", out)
        assert (code, f"{documents} documents" in said) == (0, True), err


def test_a_killed_download_leaves_nothing_that_counts(hub: Hub, edu: Repository, home: Path, run: Run) -> None:
    hub.fault("cdn:001_", "slow", 1, 2000)
    out = home / "shards" / "fineweb-edu"
    command = [sys.executable, "-m", "picollm.cli.main", "shard", "fineweb-edu", *FILE_A_SEGMENT]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as child:
        while not (hub.count("cdn", "GET", "001_") and list(out.glob("segment_*.json"))) and child.poll() is None:
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    assert list((out / ".picollm" / "staging").iterdir())
    assert len(list(out.glob("segment_*.json"))) < 4
    code, said, err = run("shard", "fineweb-edu")
    assert code == 0, err
    assert not list((out / ".picollm" / "staging").iterdir())
    assert (
        run("shard", "fineweb-edu", "--out", str(home / "whole"), *FILE_A_SEGMENT)[1].split(":")[1]
        == said.split(":")[1]
    )


def test_an_interruption_keeps_segments_and_fewer_tokens_end_it(
    hub: Hub, edu: Repository, home: Path, run: Run
) -> None:
    hub.fault("cdn:003_", "slow", -1, 2000)
    out = home / "shards" / "fineweb-edu"
    command = [sys.executable, "-m", "picollm.cli.main", "shard", "fineweb-edu", "--workers", "1", *FILE_A_SEGMENT]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as child:
        while not (hub.count("cdn", "GET", "003_") and list(out.glob("segment_*.json"))) and child.poll() is None:
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        err = child.communicate()[1]
    assert (child.returncode, "smaller --tokens" in err) == (130, True), err
    hub.log.clear()
    assert run("shard", "fineweb-edu", "--tokens", "100")[0] == 0
    assert not hub.log


def test_a_finished_set_needs_no_server(hub: Hub, edu: Repository, home: Path, run: Run) -> None:
    assert run("shard", "fineweb-edu")[0] == 0
    hub.log.clear()
    offline = {"HF_HUB_OFFLINE": "1"}
    done = in_child(offline, "shard", "fineweb-edu")
    assert done.returncode == 0, done.stderr
    done = in_child(offline, "shard", "tinystories")
    assert (done.returncode, "HF_HUB_OFFLINE" in done.stderr) == (4, True), done.stderr
    assert not hub.log


@pytest.mark.row("S11")
def test_a_stalled_body_is_given_up_and_fetched_again(hub: Hub, edu: Repository, home: Path, run: Run) -> None:
    hub.fault("cdn:000_", "stall", 1, 3)  # past the library's limit, two seconds here
    assert run("shard", "fineweb-edu")[0] == 0
    assert hub.count("cdn", "GET", "000_") == 2


def in_child(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, where the library reads its environment anew."""
    command = [sys.executable, "-m", "picollm.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
