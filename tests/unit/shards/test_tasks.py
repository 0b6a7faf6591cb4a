"""Shares of one plan, made by anyone in any order, end in the bytes of an unbroken build."""

import itertools
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.campaigns.crash import in_the_making, tree

from picollm.corpus.source import open_source
from picollm.errors import (
    BusyError,
    DatasetIncompleteError,
    MissingError,
    SourceChangedError,
    TokenizerMismatch,
    UsageError,
)
from picollm.runtime import durable
from picollm.shards.build import build
from picollm.shards.engines import slurm
from picollm.shards.tasks import Task, finalize_set, plan_set, run_task, source_of, status


@pytest.fixture(scope="module")
def whole(corpus: Path, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("whole") / "set"
    build(open_source(str(corpus)), tokenizer, out, shard_tokens=700, workers=1)
    return tree(out)


def planned(corpus: Path, tokenizer: Path, out: Path) -> Path:
    plan_set(open_source(str(corpus)), tokenizer, out, shard_tokens=700)
    return out


@given(count=st.integers(1, 50), segments=st.integers(0, 200))
def test_tasks_share_the_segments_out_whole(count: int, segments: int) -> None:
    shares = [Task(index, count).of(segments) for index in range(count)]
    assert list(itertools.chain(*shares)) == list(range(segments))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("text", ["3/3", "1", "-1/2", "0/0", "a/b", "1/2/3", "0 / 2"])
def test_what_is_no_task_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="i/N"):
        Task.parse(text)


@pytest.mark.row("S13")
@pytest.mark.parametrize("tasks", [("0/1",), ("2/3", "0/3", "1/3"), ("1/2", "0/3", "0/2", "4/5"), ("0/40",)])
@pytest.mark.parametrize("workers", [1, 4])
def test_any_mixture_of_tasks_ends_in_the_same_bytes(
    tasks: tuple[str, ...], workers: int, corpus: Path, tokenizer: Path, tmp_path: Path, whole: dict[str, str]
) -> None:
    out = planned(corpus, tokenizer, tmp_path / "set")
    for text in tasks:
        run_task(out, Task.parse(text), workers=workers)
    if status(out).missing:
        assert run_task(out, workers=workers)
    assert finalize_set(out).path == out
    assert tree(out) == whole
    assert not in_the_making(out)
    assert run_task(out, Task(0, 1)) == 0


def test_a_task_counts_its_own_segments_only(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    out = planned(corpus, tokenizer, tmp_path / "set")
    seen: list[tuple[int, int]] = []
    made = run_task(out, Task(1, 3), progress=lambda counters: seen.append((counters["done"], counters["total"])))
    assert seen[-1] == (made, made)
    assert made < status(out).segments


def test_what_is_missing_is_named_with_the_command_that_makes_it(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    out = planned(corpus, tokenizer, tmp_path / "set")
    run_task(out, Task(0, 2))
    found = status(out)
    assert found.missing == tuple(Task(1, 2).of(found.segments))
    assert found.fingerprint is None
    with pytest.raises(DatasetIncompleteError, match=f"the first is {found.missing[0]}") as caught:
        finalize_set(out)
    assert (caught.value.exit_code, "picollm shard run" in (caught.value.hint or "")) == (4, True)
    assert not (out / "manifest.json").exists()
    assert finalize_set(out, tokens=1).train_tokens
    assert status(out).fingerprint


@pytest.mark.row("S6")
def test_tasks_cooperate_and_a_lone_writer_does_not(
    corpus: Path, tokenizer: Path, tmp_path: Path, whole: dict[str, str]
) -> None:
    out = planned(corpus, tokenizer, tmp_path / "set")
    with durable.lock(out / ".picollm", "lock"):
        for deed in (lambda: run_task(out), lambda: finalize_set(out), lambda: planned(corpus, tokenizer, out)):
            with pytest.raises(BusyError, match=str(os.getpid())):
                deed()
        run_task(out, Task(0, 1))
    finalize_set(out)
    assert tree(out) == whole


@pytest.mark.slow
@pytest.mark.row("S6")
def test_eight_overlapping_tasks_at_once_write_equal_bytes(
    corpus: Path, tokenizer: Path, tmp_path: Path, whole: dict[str, str]
) -> None:
    out = planned(corpus, tokenizer, tmp_path / "set")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "picollm.cli.main", "shard", "run", str(out), "--workers", "2", "--task"]
    running = [subprocess.Popen([*command, f"{index}/2"], env=environment) for index in [0, 1] * 4]
    assert [process.wait(120) for process in running] == [0] * 8
    finalize_set(out)
    assert tree(out) == whole


def test_a_source_that_moved_is_found_by_its_new_place_and_checked(
    corpus: Path, tokenizer: Path, tmp_path: Path, whole: dict[str, str]
) -> None:
    away = tmp_path / "away"
    for path in corpus.rglob("*.*json*"):
        there = away / path.relative_to(corpus)
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(path.read_bytes())
    out = planned(away, tokenizer, tmp_path / "set")
    (tmp_path / "away").rename(tmp_path / "here")
    with pytest.raises(MissingError, match="is not there") as caught:
        run_task(out, Task(0, 1))
    assert "--root" in (caught.value.hint or "")
    changed = tmp_path / "here" / "part-0.jsonl"
    good = changed.read_bytes()
    changed.write_bytes(good.replace(b"cat", b"cow"))
    with pytest.raises(SourceChangedError, match="sha256"):
        run_task(out, Task(0, 1), root=tmp_path / "here")
    changed.write_bytes(good)
    run_task(out, Task(0, 1), root=tmp_path / "here")
    finalize_set(out)
    names = {name: found for name, found in tree(out).items() if name.startswith(("train", "val", "tokenizer"))}
    assert names.items() <= whole.items()


def test_a_folder_without_a_plan_and_one_with_another_tokenizer_are_refused(
    corpus: Path, tokenizer: Path, tmp_path: Path
) -> None:
    for deed in (lambda: run_task(tmp_path, Task(0, 1)), lambda: status(tmp_path)):
        with pytest.raises(MissingError, match=r"no plan\.json"):
            deed()
    out = planned(corpus, tokenizer, tmp_path / "set")
    path = out / "tokenizer.json"
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(TokenizerMismatch):
        run_task(out, Task(0, 1))


def test_the_standard_library_is_found_where_it_is(tokenizer: Path, tmp_path: Path) -> None:
    plan = plan_set(open_source("stdlib"), tokenizer, tmp_path / "set")
    assert source_of(plan, tmp_path / "set").files == open_source("stdlib").files


SBATCH = """#!/bin/bash
# Runs at once, on this machine, what it is given: every task of an array, in turn.
script=$(mktemp); cat > "$script"; echo "$@" >> "$LOG"
range=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$script")
for i in $(seq 0 "${range:-0}"); do
    SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$i SLURM_ARRAY_TASK_COUNT=99 bash "$script" >&2 || exit 1
done
echo "7;cluster"
"""


@pytest.mark.slow
def test_the_slurm_script_makes_the_set_and_names_it(
    corpus: Path, tokenizer: Path, tmp_path: Path, whole: dict[str, str]
) -> None:
    out = planned(corpus, tokenizer, tmp_path / "a set")
    places = tmp_path / "bin"
    places.mkdir()
    programs = {
        "sbatch": SBATCH,
        "srun": '#!/bin/bash\nexec "$@"\n',
        "picollm": f'#!/bin/bash\nexec {sys.executable} -m picollm.cli.main "$@"\n',
    }
    for name, text in programs.items():
        (places / name).write_text(text)
        (places / name).chmod(0o755)
    script = slurm.script(out, status(out).segments, tasks=3, cpus=2)
    environment = {
        **os.environ,
        "PATH": f"{places}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "LOG": str(tmp_path / "log"),
    }
    subprocess.run(["bash"], input=script, text=True, env=environment, check=True, capture_output=True)
    assert tree(out) == whole
    assert (tmp_path / "log").read_text() == "--parsable\n--dependency=afterok:7\n"


@settings(max_examples=30)
@given(segments=st.integers(1, 5_000), tasks=st.none() | st.integers(1, 3_000))
def test_an_array_is_never_larger_than_slurm_allows(segments: int, tasks: int | None) -> None:
    text = slurm.script(Path("x"), segments, tasks=tasks)
    last = int(text.split("--array=0-")[1].split("%")[0])
    assert last < min(segments, slurm.MOST_TASKS, tasks or segments)
    assert f"$SLURM_ARRAY_TASK_ID/{last + 1}" in text
