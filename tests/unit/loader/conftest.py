from pathlib import Path

import pytest
from tests.reference.shard_writer import write_set
from tests.unit.loader.toy import TRAIN, VAL


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    return write_set(folder, {"train": [TRAIN[:100], TRAIN[100:101], TRAIN[101:]], "val": [VAL]})
