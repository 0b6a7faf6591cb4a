"""Real processes, killed, stopped, starved: what they leave is whole or ignored; a rerun ends in the same bytes."""

import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.campaigns.crash import (
    GIVE_UP_SECONDS,
    Figures,
    check_what_is_there,
    command,
    crash,
    environment,
    finish,
    in_the_making,
    tree,
    write_source,
)
from tests.reference import shard_reader

KILLS = 50
SEED = 20261122


@pytest.fixture(scope="module")
def home(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a tokenizer and a source."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "tokenizers").mkdir()
    (folder / "tokenizers" / "tiny").symlink_to(tokenizer)
    write_source(folder / "source")
    return folder


@pytest.fixture(scope="module")
def unbroken(home: Path) -> dict[str, str]:
    finish(home, "whole")
    return tree(home / "whole")


def start(home: Path, *options: str, limit: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*options),
        cwd=home,
        env=environment(home),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=limit,
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.row("S2")
def test_after_fifty_kills_at_random_times_the_rerun_ends_in_the_same_bytes(home: Path) -> None:
    found = crash(home, KILLS, Figures(SEED), faults=False)
    assert (found.kills, found.differences, found.left_in_the_making) == (KILLS, 0, 0)
    assert found.killed_with_some_segments


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
    _, said = process.communicate(timeout=GIVE_UP_SECONDS)
    if process.returncode == 0:
        pytest.skip("the build was over before the signal arrived")
    assert (process.returncode, "run the same command again" in said) == (code, True), said
    assert check_what_is_there(out)
    assert not in_the_making(out)
    assert not (out / "manifest.json").exists()
    finish(home, number.name, "--tokens", "1")
    shard_reader.read_set(out)
    (manifest,) = (out / "manifests").iterdir()
    finish(home, number.name)
    smaller = f"manifests/{manifest.name}"
    assert {name: found for name, found in tree(out).items() if name != smaller} == unbroken


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_wait_and_the_rerun_ends_in_the_same_bytes(
    number: signal.Signals, home: Path, unbroken: dict[str, str]
) -> None:
    name = f"twice-{number.name}"
    process = start(home, name, "--workers", "1")
    until = time.monotonic() + GIVE_UP_SECONDS
    while not list((home / name).glob("segment_*.json")) and time.monotonic() < until:
        time.sleep(0.001)
    process.send_signal(number)
    process.send_signal(number)
    process.communicate(timeout=GIVE_UP_SECONDS)
    assert process.returncode in (-number, 128 + number, 0)
    check_what_is_there(home / name)
    finish(home, name)
    assert tree(home / name) == unbroken
    assert not in_the_making(home / name)


@pytest.mark.slow
@pytest.mark.row("S4")
@pytest.mark.parametrize("largest_file", [1_000, 1_500, 4_000])
def test_where_a_file_cannot_grow_the_error_says_so_and_the_rerun_goes_on(
    largest_file: int, home: Path, unbroken: dict[str, str]
) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    name = f"full-{largest_file}"
    process = start(home, name, limit=limit)
    _, said = process.communicate(timeout=GIVE_UP_SECONDS)
    assert (process.returncode, "no space left" in said) == (3, True), said
    assert not in_the_making(home / name)
    check_what_is_there(home / name)
    finish(home, name)
    assert tree(home / name) == unbroken
