"""The Ray engine on a real local cluster: two workers, one of them killed, and the bytes of one machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.campaigns.crash import tree
from tests.unit.shards.conftest import texts, write_jsonl

from picollm.corpus.source import open_source
from picollm.corpus.supply import DEFAULT_STAGING
from picollm.errors import MissingError
from picollm.shards.build import build
from picollm.shards.engines import ray as engine
from picollm.shards.tasks import finalize_set, plan_set

GIVE_UP_SECONDS = 240
# In a child, so that the cluster ends with it. The first worker that starts a share kills itself in the middle of it.
DRIVER = """
import json, os, signal, sys
from pathlib import Path
import ray
from picollm.shards.engines import ray as engine

out, mark = Path(sys.argv[1]), Path(sys.argv[2])
whole = engine.run_share

def run_share(share):
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return whole(share)
    out = Path(share.out)
    engine.make(engine.planned(out), out, share.segments[:1], None, 1)
    os.kill(os.getpid(), signal.SIGKILL)

engine.run_share = run_share
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
seen = []
made = engine.run_on_ray(out, threads=1, progress=lambda counters: seen.append(counters["done"]))
print(json.dumps({"made": made, "seen": seen[-1], "killed": mark.exists()}))
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ray-corpus")
    for number in range(6):
        write_jsonl(folder / f"{number}.jsonl", texts(120, 120 * number))
    return folder


@pytest.mark.slow
@pytest.mark.timeout(GIVE_UP_SECONDS + 60)
@pytest.mark.row("S13")
def test_two_workers_one_of_them_killed_make_the_bytes_of_one_machine(
    corpus: Path, tokenizer: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: uv sync --group ray")
    source = open_source(str(corpus))
    build(source, tokenizer, tmp_path / "one", shard_tokens=700)
    out = tmp_path / "ray"
    plan_set(source, tokenizer, out, shard_tokens=700)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "RAY_USAGE_STATS_ENABLED": "0"}
    ran = subprocess.run(
        [sys.executable, "-c", DRIVER, str(out), str(tmp_path / "killed")],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=GIVE_UP_SECONDS,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    segments = len(list((tmp_path / "one").glob("segment_*.json")))
    assert found == {"made": segments, "seen": segments, "killed": True}
    finalize_set(out)
    assert tree(out) == tree(tmp_path / "one")


def test_shares_hold_every_missing_segment_once_and_a_file_is_in_one(
    corpus: Path, tokenizer: Path, tmp_path: Path
) -> None:
    plan = plan_set(open_source(str(corpus)), tokenizer, tmp_path, shard_tokens=700)
    missing = {index for index in range(len(plan.body["segments"])) if index % 3}
    shares = engine.shares(plan, missing, tmp_path, None, 2, DEFAULT_STAGING)
    assert [index for share in shares for index in share.segments] == sorted(missing)
    first = [{plan.segments[index].files[0] for index in share.segments} for share in shares]
    assert all(len(files) == 1 for files in first)
    assert len(set.union(*first)) == len(first)


def test_a_share_is_made_by_the_same_function_as_everything(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    source = open_source(str(corpus))
    build(source, tokenizer, tmp_path / "one", shard_tokens=700)
    out = tmp_path / "shares"
    plan = plan_set(source, tokenizer, out, shard_tokens=700)
    everything = set(range(len(plan.body["segments"])))
    for share in engine.shares(plan, everything, out, corpus, 1, DEFAULT_STAGING):
        assert engine.run_share(share) == share.segments
    finalize_set(out)
    assert tree(out) == tree(tmp_path / "one")


def test_without_ray_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingError) as caught:
        engine.run_on_ray(tmp_path)
    assert "picollm-train[ray]" in (caught.value.hint or "")
