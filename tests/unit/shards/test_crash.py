"""Real processes, killed, stopped, starved: what they leave is whole or ignored; a rerun ends in the same bytes."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.reference import shard_reader
from tests.unit.shards.conftest import texts, write_jsonl
from tests.unit.shards.test_build import in_the_making, tree

KILLS = 50
SEED = 20261122
GIVE_UP_SECONDS = 120.0


@pytest.fixture(scope="module")
def home(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a tokenizer and a source of 40 segments."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "tokenizers").mkdir()
    (folder / "tokenizers" / "tiny").symlink_to(tokenizer)
    for number in range(8):
        write_jsonl(folder / "source" / f"{number}.jsonl", texts(1500, 1500 * number))
    return folder


def start(home: Path, out: str, *options: str, largest_file: int | None = None) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "picollm.cli.main",
        "shard",
        "source",
        "--out",
        out,
        "--shard-tokens",
        "2K",
        *options,
    ]
    environment = {**os.environ, "PICOLLM_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}

    def limit() -> None:
        assert largest_file is not None
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    return subprocess.Popen(
        command,
        cwd=home,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=None if largest_file is None else limit,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=GIVE_UP_SECONDS)
    return process.returncode, said


@pytest.fixture(scope="module")
def unbroken(home: Path) -> dict[str, str]:
    code, said = finish(start(home, "unbroken"))
    assert code == 0, said
    return tree(home / "unbroken")


def check_what_is_there(out: Path) -> None:
    """Every committed segment is whole, whatever happened; a manifest, if there is one, is true."""
    for path in out.glob("segment_*.json"):
        for file in json.loads(path.read_bytes())["files"]:
            assert len(shard_reader.read(out / f"{file['name']}.bin").tokens) == file["n_tokens"]
    if (out / "manifest.json").exists():
        shard_reader.read_set(out)


@pytest.mark.slow
@pytest.mark.row("S2")
def test_after_fifty_kills_at_random_times_the_rerun_ends_in_the_same_bytes(
    home: Path, unbroken: dict[str, str]
) -> None:
    chance = random.Random(SEED)
    begun = time.monotonic()
    assert finish(start(home, "timed"))[0] == 0
    whole = time.monotonic() - begun
    out = home / "killed"
    for kill in range(KILLS):
        process = start(home, "killed", "--workers", "4")
        try:
            process.communicate(timeout=chance.uniform(0.2, 1.0) * whole)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        check_what_is_there(out)
        if kill % 10 == 9 and (out / "manifest.json").exists():
            assert tree(out) == unbroken
            for path in [*out.glob("segment_*.json"), out / "manifest.json"][kill // 10 :]:
                path.unlink()  # nearly all over again
    assert finish(start(home, "killed"))[0] == 0
    assert tree(out) == unbroken
    assert not in_the_making(out)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_politely_and_keeps_finished_segments(
    number: signal.Signals, code: int, home: Path, unbroken: dict[str, str]
) -> None:
    out = home / number.name
    process = start(home, number.name, "--workers", "1")
    until = time.monotonic() + GIVE_UP_SECONDS
    while not list(out.glob("segment_*.json")) and time.monotonic() < until:
        time.sleep(0.001)
    process.send_signal(number)
    found, said = finish(process)
    if found == 0:
        pytest.skip("the build was over before the signal arrived")
    assert (found, "run the same command again" in said) == (code, True), said
    check_what_is_there(out)
    assert not in_the_making(out)
    kept = len(list(out.glob("segment_*.json")))
    assert kept
    assert not (out / "manifest.json").exists()
    assert finish(start(home, number.name, "--tokens", "1"))[0] == 0
    shard_reader.read_set(out)
    assert finish(start(home, number.name))[0] == 0
    assert {name: hash for name, hash in tree(out).items() if "manifests/" not in name} == {
        name: hash for name, hash in unbroken.items() if "manifests/" not in name
    }


@pytest.mark.slow
@pytest.mark.row("S4")
@pytest.mark.parametrize("largest_file", [1_000, 1_500, 4_000])
def test_where_a_file_cannot_grow_the_error_says_so_and_the_rerun_goes_on(
    largest_file: int, home: Path, unbroken: dict[str, str]
) -> None:
    name = f"full-{largest_file}"
    code, said = finish(start(home, name, largest_file=largest_file))
    assert (code, "no space left" in said) == (3, True), said
    assert not in_the_making(home / name)
    check_what_is_there(home / name)
    assert finish(start(home, name))[0] == 0
    assert tree(home / name) == unbroken
