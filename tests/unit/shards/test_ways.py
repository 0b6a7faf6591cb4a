"""However a set is made, it is the same set."""

from pathlib import Path

import pytest
from tests.campaigns.crash import tree, write_source
from tests.campaigns.ways import fingerprints


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.row("S13")
def test_workers_tasks_and_ray_end_in_one_fingerprint_and_the_same_files(tokenizer: Path, tmp_path: Path) -> None:
    write_source(tmp_path / "source")
    found = fingerprints(tmp_path / "source", tokenizer, tmp_path / "sets")
    assert len(found) >= 7
    assert len(set(found.values())) == 1, found
    first, *others = [tree(made) for made in sorted((tmp_path / "sets").iterdir())]
    assert all(other == first for other in others)
    assert len(first) > 100
