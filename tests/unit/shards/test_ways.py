"""However a set is made, it is the same set."""

import shutil
from pathlib import Path

import pytest
from tests.campaigns.crash import tree, write_source
from tests.campaigns.ways import configurations, fingerprints

CONFIGURATIONS = 4


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


@pytest.mark.slow
@pytest.mark.row("S13")
def test_language_time_zone_hash_seed_and_umask_do_not_show(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizers").mkdir()
    shutil.copytree(tokenizer, tmp_path / "tokenizers" / "tiny")
    write_source(tmp_path / "source")
    assert len(configurations(tmp_path, CONFIGURATIONS, 20261122)) == 1
