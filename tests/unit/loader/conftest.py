from pathlib import Path

import pytest
from tests.reference.shard_writer import write_set
from tests.unit.loader.toy import TRAIN, VAL, Rows, ranks, read


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    return write_set(folder, {"train": [TRAIN[:100], TRAIN[100:101], TRAIN[101:]], "val": [VAL]})


@pytest.fixture(scope="session")
def unbroken(shards: Path) -> Rows:
    """Every row of three epochs of `shards`."""
    return read(ranks(shards, 1))
