import os
from pathlib import Path

import pytest

from picollm.cli.places import machine_for, tokenizer_file
from picollm.errors import MissingError
from picollm.layout import Layout
from picollm.plan.request import TrainRequest
from picollm.runtime.machine import GIB
from picollm.train.data import find_shards


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    for age, name in ((300, "older"), (100, "newer"), (0, "unfinished")):
        folder = tmp_path / "shards" / name
        folder.mkdir(parents=True)
        if age:
            (folder / "manifest.json").write_text("{}")
            os.utime(folder / "manifest.json", (10**9 - age, 10**9 - age))
    return Layout(tmp_path)


def test_unsaid_shards_are_those_that_were_finished_last(layout: Layout) -> None:
    assert find_shards(TrainRequest(), layout) == layout.shards / "newer"
    assert find_shards(TrainRequest(), Layout(layout.root / "empty")) is None


@pytest.mark.parametrize(
    "said", [{"shards": "older"}, {"dataset_name": "older"}, {"dataset_name": "someone/older"}], ids=str
)
def test_shards_are_found_by_name_and_by_corpus(layout: Layout, said: dict[str, str]) -> None:
    assert find_shards(TrainRequest(**said), layout) == layout.shards / "older"  # type: ignore[arg-type]


def test_shards_are_found_by_path_and_an_unfinished_folder_is_none(layout: Layout) -> None:
    assert find_shards(TrainRequest(shards=str(layout.shards / "older")), layout) == layout.shards / "older"
    assert find_shards(TrainRequest(shards="unfinished"), layout) is None
    assert find_shards(TrainRequest(dataset_name="absent"), layout) is None


def test_a_missing_tokenizer_names_the_command_that_makes_one(layout: Layout) -> None:
    with pytest.raises(MissingError) as raised:
        tokenizer_file("absent", layout)
    assert raised.value.hint == "picollm tok train --vocab-size 65536"


def test_a_named_gpu_is_planned_for_without_being_there() -> None:
    machine = machine_for(TrainRequest(gpu="h100:8"))
    assert (machine.device, machine.count, machine.memory, machine.peak_flops) == ("cuda", 8, 79 * GIB, 989e12)
    assert machine_for(TrainRequest(gpu="h100", peak_flops=1e15)).peak_flops == 1e15
    assert machine_for(TrainRequest(device="cpu", peak_flops=5e10)).peak_source == "given"
