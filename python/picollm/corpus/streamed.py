"""Data sets that hold neither parquet nor jsonl: streamed once by `datasets` into parquet parts, then read as files.

Only formats that `datasets` reads without running code of the repository: it runs none since its version 4.
"""

import shutil
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from picollm.corpus import listing, local
from picollm.corpus.hub import VAL_PPM, Asked, Hub, NoRowsError, cache_folder
from picollm.corpus.source import Source, listed
from picollm.errors import DownloadError, UsageError

KIND = "streamed"  # its files lie in the cache; nobody can fetch them again one by one
PART_ROWS, GROUP_ROWS = 65_536, 1_024


def open_streamed(asked: Asked, found: NoRowsError, cache: Path) -> Source:
    """The rows of a data set as parquet parts in the cache, streamed now unless they are there.

    Raises UsageError naming the configurations or splits, MissingError where `datasets` finds no rows either.
    """
    config, split = settle(asked, found)
    folder = cache_folder(cache, asked.repo) / f"streamed-{found.commit[:12]}-{config}-{split}"
    if not folder.is_dir():
        making = folder.with_name(f".{folder.name}")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        rows = call(datasets.load_dataset, asked.repo, config, split=split, revision=found.commit, streaming=True)
        write_parts(iter(rows), making)
        making.rename(folder)
    files = listed(local.find(str(folder)))
    origin = {"repo": asked.repo, "revision": found.commit, "config": config, "split": split}
    return Source(
        asked.name, KIND, folder, files, asked.read, VAL_PPM, "see the repository", origin=tuple(origin.items())
    )


def settle(asked: Asked, found: NoRowsError) -> tuple[str, str]:
    """Configuration and split, checked by name."""
    Hub.connect()
    try:
        configs = call(datasets.get_dataset_config_names, asked.repo, revision=found.commit)
        layout: listing.Layout = {name: {} for name in configs}
        config = listing.choose_config(asked.spec, asked.entry, layout, asked.config)
        splits = call(datasets.get_dataset_split_names, asked.repo, config, revision=found.commit)
    except DownloadError as error:
        raise NoRowsError(
            f"{found.message}; datasets: {error.message}", commit=found.commit, hint="give a data set with rows of text"
        ) from error
    chosen = listing.choose(asked.spec, asked.entry, {config: {name: [] for name in splits}}, config, asked.split, {})
    return chosen.config, chosen.split


def call(doing: Any, *args: Any, **options: Any) -> Any:
    """A call into `datasets`. Its many errors become DownloadError."""
    try:
        return doing(*args, **options)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError, ImportError) as error:
        raise DownloadError(f"{args[0]}: {error!s:.300}") from error


def write_parts(rows: Iterator[Mapping[str, Any]], folder: Path) -> None:
    """Parts of 65,536 rows in groups of 1,024, zstd."""
    for number in range(10**6):
        part = list(islice(rows, PART_ROWS))
        if not part and number:
            return
        if not part:
            raise UsageError("the split has no rows")
        pq.write_table(
            pa.Table.from_pylist(part),
            folder / f"part-{number:05}.parquet",
            row_group_size=GROUP_ROWS,
            compression="zstd",
        )
