"""The tasks' files from the Hub: whole, checked against their hashes, kept in the cache. No torch."""

import fnmatch
import re
from collections.abc import Sequence
from pathlib import Path

from picollm.corpus import listing
from picollm.corpus.hub import Hub, Shelf, cache_folder
from picollm.corpus.source import HUB_ID
from picollm.errors import MissingError, UsageError
from picollm.evals.core import BASELINES, FOLDER, TASKS, ZIP

PREFIX = "hf://"
LARGEST = 1 << 30  # bytes that one call may fetch
CORE_FILES = (TASKS, BASELINES, "eval_data/*", ZIP)
SPEC = re.compile(rf"({HUB_ID.pattern})(?:@([\w./-]+))?")


def bring(spec: str, wanted: Sequence[str], cache: Path) -> Path:
    """A folder with those files of a data set (`hf://owner/name`, `@revision` after it) that match a pattern.

    Patterns are of whole paths, in the repository's root or in `eval_bundle/`. Raises UsageError, MissingError, and
    what a Hub out of reach raises.
    """
    match = SPEC.fullmatch(spec)
    if match is None:
        raise UsageError(f"{spec}: not {PREFIX}owner/name", hint="--data FOLDER, or --data hf://owner/name@revision")
    repo, revision = match[2], match[3]
    hub = Hub.connect()
    commit, _ = hub.info(repo, revision)
    held = hub.files(repo, commit)
    chosen = [path for path in sorted(held) if any(fits(path, pattern) for pattern in wanted)]
    if not chosen:
        raise MissingError(f"{repo}: no {' or '.join(wanted)} among its {len(held)} files", hint="--data FOLDER")
    listing.check_names(repo, chosen)
    size = sum(held[path].size for path in chosen)
    if size > LARGEST:
        raise UsageError(f"{repo}: {len(chosen)} files of {size:,} bytes; an examination has {LARGEST:,} at most")
    root = cache_folder(cache, repo) / commit
    root.mkdir(parents=True, exist_ok=True)
    shelf = Shelf(hub, repo, commit)
    for path in chosen:
        shelf.bring(held[path], root)
    return root


def fits(path: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(path.removeprefix(f"{FOLDER}/"), pattern)
