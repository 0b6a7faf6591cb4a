"""The text that every machine has: the source of the standard library of the Python that runs us."""

import os
import sysconfig
from pathlib import Path

from picollm.corpus.local import Listing
from picollm.errors import MissingError

VAL_PPM = 50_000
LEAST_BYTES = 1_000_000  # a stripped or zipped library has less
SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "_bundled"})


def find(root: Path | None = None) -> Listing:
    """The `.py` files, tests and installed packages left out, in bytewise path order.

    Raises MissingError under 1 MB of source.
    """
    root = root or Path(sysconfig.get_paths()["stdlib"])
    names = []
    size = 0
    for at, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS and not name.startswith(("config-", "."))]
        for name in files:
            if name.endswith(".py"):
                path = Path(at, name)
                names.append(path.relative_to(root).as_posix())
                size += path.stat().st_size
    if size < LEAST_BYTES:
        raise MissingError(
            f"{root}: the standard library has only {size:,} bytes of source here", hint="picollm shard PATH"
        )
    return Listing(root, tuple(sorted(names, key=str.encode)), ())
