"""Several ranks are one: the same losses, the same weights, and a state that any number of ranks can take over."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.two_ranks.optimizer_jobs import merged, one_update, reshard, train
from tests.two_ranks.ranks import on_ranks

from picollm.runtime.dist import World

JOBS = "tests.two_ranks.optimizer_jobs"


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_ranks_compute_what_one_process_computes(size: int, tmp_path: Path) -> None:
    alone = train(World())
    found = on_ranks(size, f"{JOBS}:train", tmp_path)
    assert len({rank["weights"] for rank in found}) == 1
    for rank in found:
        assert rank["losses"] == pytest.approx(alone["losses"], rel=1e-10)
        assert rank["norms"] == pytest.approx(alone["norms"], rel=1e-6)
    assert alone["losses"][-1] < 0.8 * alone["losses"][0]


@pytest.mark.slow
def test_three_ranks_start_from_the_same_bits_and_make_the_update_of_one(tmp_path: Path) -> None:
    alone = one_update(World(), str(tmp_path / "one.safetensors"))
    found = on_ranks(3, f"{JOBS}:one_update", tmp_path / "ranks", save=str(tmp_path / "three.safetensors"))
    assert [rank["before"] for rank in found] == [alone["before"]] * 3
    assert len({rank["after"] for rank in found}) == 1
    one, three = load_file(tmp_path / "one.safetensors"), load_file(tmp_path / "three.safetensors")
    for name, wanted in one.items():
        far = (three[name] - wanted).norm() / wanted.norm()
        assert float(far) <= 1e-6, name


@pytest.mark.slow
@pytest.mark.row("C10")
def test_a_state_survives_any_change_of_the_number_of_ranks_bit_for_bit(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two", "four", "three", "again")]
    train(World(), save=str(folders[0]))
    for size, (start, save) in zip((2, 4, 3), pairwise(folders), strict=False):
        on_ranks(size, f"{JOBS}:reshard", tmp_path / f"on{size}", start=str(start), save=str(save))
    reshard(World(), str(folders[3]), str(folders[4]))
    first, last = merged(folders[0]), merged(folders[4])
    assert first.keys() == last.keys()
    assert all(torch.equal(first[key], last[key]) for key in first)
    assert any("[" in key for key in merged(folders[1]))
