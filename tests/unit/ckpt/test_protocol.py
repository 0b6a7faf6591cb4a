import os
import random
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from picollm.ckpt import protocol
from picollm.ckpt.schema import MANIFEST, MODEL, State, step_name
from picollm.ckpt.tensors import Tensors
from picollm.errors import CheckpointError, PicoError
from picollm.runtime import failpoint
from picollm.runtime.dist import World


def state_at(step: int) -> State:
    return State(
        step=step,
        updates=step,
        stage="base",
        dtype="fp32",
        device="cpu",
        plan={"steps": 100},
        loader={"rows": step},
        rng={},
        guard={},
        meters={},
        evaluated=0,
        best=None,
        shards="f" * 64,
        tokenizer="a" * 64,
        versions={"torch": "2"},
        threads=1,
        world_size=1,
    )


def contents_at(step: int) -> protocol.Contents:
    weights = {"wte.weight": torch.arange(12.0).reshape(3, 4) + step}
    optimizer = {"wte.weight/exp_avg": torch.full((3, 4), float(step)), "step": torch.tensor(step)}
    return protocol.Contents(state_at(step), b"{}", b"{}", weights, optimizer)


def save_at(root: Path, *steps: int) -> list[Path]:
    return [protocol.save(root, contents_at(step), World()).path for step in steps]


def nobody(text: str) -> None:
    raise AssertionError(text)


def test_what_was_saved_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    (path,) = save_at(tmp_path, 5)
    assert path.name == "step-0000000005"
    assert State.read(path / "state.json") == state_at(5)
    manifest = protocol.verify(path)
    with Tensors([path / MODEL, *protocol.optimizer_files(path, manifest)]) as tensors:
        assert set(tensors) == {"wte.weight", "wte.weight/exp_avg", "step"}
        assert torch.equal(tensors["wte.weight"], contents_at(5).weights["wte.weight"])
        assert tensors.shape("wte.weight") == (3, 4)
        assert tensors.dtype("step") == torch.int64
    assert path.stat().st_mode & 0o777 == 0o700


def test_equal_contents_give_equal_bytes(tmp_path: Path) -> None:
    one, two = (
        protocol.save(tmp_path / "a", contents_at(1), World()),
        protocol.save(tmp_path / "b", contents_at(1), World()),
    )
    assert one.sha256 == two.sha256


@pytest.mark.row("C3")
def test_any_damage_to_any_file_is_found_and_the_previous_checkpoint_taken(tmp_path: Path) -> None:
    rng = random.Random(20)
    old, new = save_at(tmp_path / "clean", 1, 2)
    names = sorted(path.name for path in new.iterdir())
    damages = [(name, how) for name in names for how in ("flip", "truncate", "delete", "append", "empty", "link")]
    for name, how in [*damages, ("extra", "extra"), ("extra", "folder")]:
        root = tmp_path / "damaged"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(tmp_path / "clean", root)
        damage(root / new.name / name, how, rng)
        told: list[str] = []
        assert protocol.newest(root, told.append) == root / old.name, (name, how)
        assert len(told) == 1


def damage(path: Path, how: str, rng: random.Random) -> None:
    if how == "extra":
        path.write_bytes(b"")
        return
    if how == "folder":
        path.mkdir()
        return
    data = bytearray(path.read_bytes())
    if how == "flip":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
    elif how == "truncate":
        path.write_bytes(data[: rng.randrange(len(data))])
    elif how == "append":
        path.write_bytes(data + b"\0")
    elif how == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
        if how == "link":
            path.symlink_to("/dev/zero")


@pytest.mark.row("C3")
def test_a_changed_byte_anywhere_in_a_manifest_is_found(tmp_path: Path) -> None:
    (path,) = save_at(tmp_path, 1)
    data = (path / MANIFEST).read_bytes()
    for at in range(0, len(data), 7):
        (path / MANIFEST).write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(PicoError):
            protocol.verify(path, only=())


@pytest.mark.row("C3")
def test_with_every_checkpoint_damaged_the_run_stops(tmp_path: Path) -> None:
    for path in save_at(tmp_path, 1, 2):
        (path / MODEL).write_bytes(b"")
    with pytest.raises(CheckpointError, match="no whole checkpoint is left") as caught:
        protocol.newest(tmp_path, lambda text: None)
    assert caught.value.exit_code == 3


def test_an_empty_or_missing_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert protocol.newest(tmp_path, nobody) is None
    assert protocol.newest(tmp_path / "absent", nobody) is None


@pytest.mark.row("C18")
def test_the_newest_is_the_highest_number_and_junk_is_ignored(tmp_path: Path) -> None:
    low, high = save_at(tmp_path, 9_999_999_999, 10_000_000_000)
    for junk in (
        "step-5",
        "step-99999999999.tmp-00",
        ".trash-step-0000000009",
        "step-abc",
        "steps",
        "step-00000000099x",
    ):
        (tmp_path / junk).mkdir()
    assert protocol.candidates(tmp_path) == [high, low]
    assert protocol.newest(tmp_path, nobody) == high


def test_a_directory_named_for_another_step_is_refused(tmp_path: Path) -> None:
    (path,) = save_at(tmp_path, 1)
    path.rename(tmp_path / step_name(7))
    with pytest.raises(CheckpointError, match="another step"):
        protocol.verify(tmp_path / step_name(7))


@pytest.mark.row("C20")
@pytest.mark.parametrize("there", ["identical", "damaged", "foreign", "other"])
def test_a_step_reached_again_never_costs_a_valid_checkpoint(tmp_path: Path, there: str) -> None:
    (path,) = save_at(tmp_path, 3)
    identity = path.stat().st_ino
    if there == "damaged":
        (path / MODEL).write_bytes(b"x")
    elif there == "foreign":
        shutil.rmtree(path)
        path.mkdir()
        (path / "notes").write_text("mine")
    contents = contents_at(3)
    if there == "other":
        contents = replace(contents, state=replace(contents.state, updates=2))
    saved = protocol.save(tmp_path, contents, World())
    protocol.verify(path)
    assert State.read(path / "state.json") == contents.state
    assert saved.path == path
    assert (path.stat().st_ino == identity) == (there == "identical")
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.row("C14")
def test_pruning_keeps_the_newest_whole_ones_and_the_pinned(tmp_path: Path) -> None:
    paths = save_at(tmp_path, 1, 2, 3, 4, 5)
    (paths[4] / MODEL).write_bytes(b"")
    protocol.prune(tmp_path, 2, [1], set())
    assert {path.name for path in tmp_path.iterdir()} == {step_name(step) for step in (1, 3, 4, 5)}


@pytest.mark.row("C7")
def test_a_value_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    contents = contents_at(1)
    contents.weights["wte.weight"][1, 1] = torch.nan
    with pytest.raises(CheckpointError, match=r"wte\.weight holds values that are not finite"):
        protocol.save(tmp_path, contents, World())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.row("C9")
@pytest.mark.parametrize("place", ["ckpt.begun", "ckpt.synced", "ckpt.manifest_synced"])
def test_a_failing_disk_leaves_the_previous_checkpoint_and_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (old,) = save_at(tmp_path, 1)
    monkeypatch.setattr(failpoint, "passages", failpoint.Counter())
    monkeypatch.setenv(failpoint.VARIABLE, f"{place}=ENOSPC")
    with pytest.raises(PicoError, match="No space left"):
        save_at(tmp_path, 2)
    assert protocol.newest(tmp_path, nobody) == old


PLACES = ["begun", "synced", "manifest_synced", "trashed", "renamed", "committed"]


def die_saving(root: Path, place: str) -> int:
    """The signal that ended a forked child which saved step 2 and was killed at `place`."""
    child = os.fork()
    if child == 0:
        os.environ[failpoint.VARIABLE] = f"ckpt.{place}=kill"
        save_at(root, 2)
        os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


@pytest.mark.row("C2")
@pytest.mark.parametrize("place", PLACES)
def test_a_kill_at_any_step_of_a_save_leaves_a_whole_checkpoint(tmp_path: Path, place: str) -> None:
    save_at(tmp_path, 1, 2)
    (tmp_path / step_name(2) / MODEL).write_bytes(b"damaged, so that the save has to move it away")
    assert die_saving(tmp_path, place) == signal.SIGKILL
    found = protocol.newest(tmp_path, lambda text: None)
    committed = place in ("renamed", "committed")
    assert found == tmp_path / step_name(2 if committed else 1)
    protocol.sweep(tmp_path)
    assert all(entry.name.startswith("step-") and ".tmp-" not in entry.name for entry in tmp_path.iterdir())
    save_at(tmp_path, 2)
    assert protocol.newest(tmp_path, nobody) == tmp_path / step_name(2)
