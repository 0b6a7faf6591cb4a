"""The Hugging Face Hub: what a data set holds at one commit, and bringing its files here whole.

Requests go through `huggingface_hub`; patience, the check of every sha256 and the words of the errors are ours. A
branch is resolved once: a source says the commit, and everything after is asked of that commit.
"""

import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import logging
from huggingface_hub.utils.tqdm import tqdm

from picollm.corpus import listing, redirects
from picollm.corpus.catalog import CATALOG, Entry
from picollm.corpus.patience import ASK_TRIES, FETCH_TRIES, in_words, ordered_wait, passing, session_of_all, waits
from picollm.corpus.source import HUB_ID, ReadOptions, Source, SourceFile
from picollm.corpus.supply import FileFacts, Stopped, clear, own_folder, same, sha256_of
from picollm.errors import CheckError, DownloadError, MissingError, UsageError

KIND = "hub"
VAL_PPM = 2_000
STAGING = ".staging"
CONVERTED = "refs/convert/parquet"  # where the Hub keeps a copy in parquet of data sets in other forms
WRONG_BODIES = 2  # of the right length and the wrong sha256, before the file is given up
T = TypeVar("T")


class NoRowsError(MissingError):
    """A data set without parquet or jsonl, here and converted; `commit` is where it was looked at."""

    def __init__(self, message: str, *, commit: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.commit = commit


@dataclass(frozen=True)
class Asked:
    """What was asked of a data set; None is unsaid."""

    spec: str
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    read: ReadOptions = ReadOptions()  # noqa: RUF009 (frozen)

    @property
    def repo(self) -> str:
        """`owner/name`. Raises UsageError for what is neither that nor an alias."""
        if self.spec in CATALOG:
            return CATALOG[self.spec].repo
        match = HUB_ID.fullmatch(self.spec)
        if match is None:
            raise UsageError(f"{self.spec}: neither an alias nor owner/name")
        return match[1]

    @property
    def entry(self) -> Entry | None:
        """What the catalog knows of it."""
        return next((entry for entry in CATALOG.values() if entry.repo.lower() == self.repo.lower()), None)

    @property
    def name(self) -> str:
        """The corpus's name: the alias, else the last part of the id."""
        return self.spec if self.spec in CATALOG else self.repo.rpartition("/")[2]


@dataclass(frozen=True)
class Dataset:
    """A data set at one commit. `files` are the chosen ones; a small file has no sha256 but a git hash."""

    repo: str
    commit: str
    card: Mapping[str, Any]
    config: str
    split: str
    files: tuple[RepoFile, ...]
    layout: listing.Layout

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class Hub:
    """`endpoint`: the address, None for the library's. A `Remote` once it is bound to a data set (`Shelf`)."""

    endpoint: str

    @classmethod
    def connect(cls) -> "Hub":
        """By the environment as it is now: HF_ENDPOINT. The library reads HF_TOKEN, HF_HOME and the others itself."""
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        os.environ.setdefault("HF_XET_CHUNK_CACHE_SIZE_BYTES", "0")  # the disk is ours to bound
        endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        redirects.guard(endpoint)
        return cls(endpoint)

    @property
    def api(self) -> HfApi:
        return HfApi(endpoint=self.endpoint)

    def dataset(self, asked: Asked) -> Dataset:
        """Look the data set up: one request for its commit and card, then its files, a thousand a request.

        Raises UsageError (no such config, split or revision), MissingError, NoRowsError.
        """
        commit, card = self.info(asked.repo, asked.revision)
        dataset = self.known_config(asked, commit, card)
        if dataset is None:
            files = self.files(asked.repo, commit)
            if not listing.rows_of(files) and asked.revision is None:
                commit, files = self.converted(asked.repo, commit)
            dataset = choose(asked, commit, card, files)
        listing.check_names(asked.repo, [file.path for file in dataset.files])
        return dataset

    def info(self, repo: str, revision: str | None) -> tuple[str, dict[str, Any]]:
        """Commit and card."""
        try:
            facts = self.ask(lambda: self.api.dataset_info(repo, revision=revision), repo)
        except RevisionNotFoundError as error:
            branches = self.ask(lambda: self.api.list_repo_refs(repo, repo_type="dataset"), repo).branches
            raise UsageError(
                f"{repo} has no revision {revision}; its branches are "
                f"{listing.shown(branch.name for branch in branches)}",
                hint="choose --revision: a branch, a tag or a commit",
            ) from error
        if not re.fullmatch(r"[0-9a-f]{40}", facts.sha or ""):
            raise CheckError(f"{repo}: the Hub named no commit but {facts.sha!r}")
        card = facts.card_data
        return str(facts.sha), dict(card.to_dict()) if card else {}  # type: ignore[no-untyped-call]

    def known_config(self, asked: Asked, commit: str, card: dict[str, Any]) -> Dataset | None:
        """A configuration that the catalog knows needs only its own folder listed; None where it does not."""
        entry = asked.entry
        config = asked.config or (entry.default_config if entry else None)
        if entry is None or entry.kind == "chat" or config not in entry.configs:
            return None
        if asked.split not in (None, listing.TRAIN):
            return None
        folder = re.match(r"(?:[^*?/]+/)*", entry.configs[config])
        try:
            files = self.files(asked.repo, commit, folder[0].rstrip("/") if folder else "")
        except EntryNotFoundError:
            return None
        paths = listing.matching(entry.configs[config], listing.rows_of(files))
        layout = {config: {listing.TRAIN: paths}}
        if not paths:
            return None
        return Dataset(asked.repo, commit, card, config, listing.TRAIN, tuple(files[path] for path in paths), layout)

    def files(self, repo: str, commit: str, folder: str = "") -> dict[str, RepoFile]:
        """Every file, by path, below a folder."""

        def tree() -> list[RepoFile]:
            entries = self.api.list_repo_tree(
                repo, folder or None, recursive=True, revision=commit, repo_type="dataset"
            )
            return [entry for entry in entries if isinstance(entry, RepoFile)]

        return {file.path: file for file in self.ask(tree, repo)}

    def converted(self, repo: str, commit: str) -> tuple[str, dict[str, RepoFile]]:
        """The Hub's own conversion to parquet, if it is whole."""
        try:
            at, _ = self.info(repo, CONVERTED)
        except UsageError:
            at = ""
        files = self.files(repo, at) if at else {}
        partial = [path for path in files if any(part.startswith("partial-") for part in path.split("/"))]
        if not files or partial:
            why = f"the Hub's own conversion is of a part only ({partial[0]})" if partial else "nor a conversion"
            raise NoRowsError(f"{repo}: no parquet or jsonl files in it, {why}", commit=commit)
        return at, files

    def ask(self, doing: Callable[[], T], repo: str) -> T:
        """A request for facts, tried again while the Hub is busy or out of reach. Raises PicoError, and what the caller
        can know better: RevisionNotFoundError, EntryNotFoundError."""
        for wait in waits(ASK_TRIES):
            try:
                with session_of_all():
                    return doing()
            except (RevisionNotFoundError, EntryNotFoundError):
                raise
            except (httpx2.HTTPError, OSError, ValueError) as error:
                if wait is None or not passing(error):
                    raise in_words(error, repo, self.endpoint) from error
                time.sleep(ordered_wait(error) or wait)
        raise AssertionError("the last try raises")

    def fetch_small(self, repo: str, commit: str, file: RepoFile, root: Path) -> str:
        """Bring a file whose listing has only a git hash; its sha256, once that hash fits."""
        target, beside = root / file.path, root / f".small-{os.getpid()}"
        if not (target.is_file() and git_sha1_of(target) == file.blob_id):
            found = self.ask(lambda: self.download(repo, commit, file.path, beside), repo)
            if git_sha1_of(found) != file.blob_id:
                raise DownloadError(f"{repo}: {file.path}: git hash {git_sha1_of(found)}, listed as {file.blob_id}")
            target.parent.mkdir(parents=True, exist_ok=True)
            found.replace(target)
            shutil.rmtree(beside)
        return sha256_of(target)

    def download(self, repo: str, commit: str, path: str, folder: Path, meter: type[tqdm] | None = None) -> Path:
        """One file as the library fetches it: whole by its length, its content unchecked."""
        with session_of_all():
            found = hf_hub_download(
                repo,
                path,
                repo_type="dataset",
                revision=commit,
                local_dir=folder,
                endpoint=self.endpoint,
                tqdm_class=meter,
            )
        return Path(found)


@dataclass(frozen=True)
class Shelf:
    """The files of one data set at one commit: the `Remote` of a source."""

    hub: Hub
    repo: str
    commit: str

    def fetch(
        self, file: FileFacts, beside: Path, into: Path, moved: Callable[[int], None], stop: threading.Event
    ) -> None:
        """Bring one file, checked. Raises DownloadError, MissingError where the Hub is out of reach."""
        meter = meter_of(moved)
        wrong: list[str] = []
        for wait in waits(FETCH_TRIES):
            try:
                found = self.hub.download(self.repo, self.commit, file.path, beside, meter)
                sha256 = sha256_of(found, stop)
                if sha256 == file.sha256:
                    found.replace(into)
                    return
                found.unlink()
                wrong.append(sha256)
                if len(wrong) == WRONG_BODIES:
                    raise DownloadError(
                        f"{self.repo}: {file.path} came {len(wrong)} times with sha256 {wrong[-1]}, it is listed with "
                        f"{file.sha256}",
                        hint="run the same command again later; a proxy or mirror may be changing the bytes",
                    )
            except Stopped:
                return
            except (httpx2.HTTPError, OSError, ValueError) as error:
                if stop.is_set():
                    return
                if wait is None or not passing(error, of_file=True):
                    raise in_words(error, f"{self.repo}: {file.path}", self.hub.endpoint) from error
                stop.wait(ordered_wait(error) or wait)
        raise DownloadError(f"{self.repo}: {file.path}: not whole after {FETCH_TRIES} tries")

    def bring(self, listed: RepoFile, root: Path) -> Path:
        """One file below `root`, fetched unless it is there already and is the one that the Hub lists."""
        target = root / listed.path
        if listed.lfs is None:
            self.hub.fetch_small(self.repo, self.commit, listed, root)
            return target
        file = SourceFile(listed.path, listed.size, listed.lfs.sha256)
        if not same(file, target):
            target.parent.mkdir(parents=True, exist_ok=True)
            self.fetch(file, own_folder(root / STAGING), target, lambda moved: None, threading.Event())
            clear(root / STAGING)
        return target


def open_dataset(asked: Asked, cache: Path, dataset: Dataset | None = None) -> Source:
    """The source that was asked for, at the commit that the Hub says now. `cache`: where copies are kept.

    The text column is left as it was asked: see `picollm.corpus.peek`.
    """
    hub = Hub.connect()
    dataset = dataset or hub.dataset(asked)
    root = cache_folder(cache, dataset.repo)
    files = []
    for file in dataset.files:
        sha256 = file.lfs.sha256 if file.lfs else hub.fetch_small(dataset.repo, dataset.commit, file, root)
        files.append(SourceFile(file.path, file.size, sha256))
    origin = {"repo": dataset.repo, "revision": dataset.commit, "config": dataset.config, "split": dataset.split}
    licence = licence_of(dataset.card)
    source = Source(asked.name, KIND, root, tuple(files), asked.read, VAL_PPM, licence, origin=tuple(origin.items()))
    return with_catalog(source, asked)


def with_catalog(source: Source, asked: Asked) -> Source:
    """What the catalog adds to a source, and what brings its files."""
    entry, origin = asked.entry, dict(source.origin)
    shelf = Shelf(Hub.connect(), origin["repo"], origin["revision"])
    if entry is None:
        return replace(source, remote=shelf)
    column = source.read.text_column or entry.text_column
    return replace(
        source,
        remote=shelf,
        read=replace(source.read, text_column=column),
        licence=entry.licence,
        val_ppm=entry.val_ppm,
        centibytes=round(entry.bytes_per_token * 100),
    )


def pinned(known: Mapping[str, Any], column: str | None, asked: Asked, cache: Path) -> Source | None:
    """The source that a plan or a tokenizer names (its `source` and text column), if it is what is asked for again;
    no request is made. None where something else is asked."""
    same = {"kind": KIND, "repo": asked.repo, "name": asked.name}
    said = {"config": asked.config, "split": asked.split}
    if any(known.get(key) != value for key, value in same.items()):
        return None
    if any(value is not None and known.get(key) != value for key, value in said.items()):
        return None
    if asked.revision not in (None, known.get("revision")):
        return None
    try:
        files = tuple(SourceFile(file["path"], file["size"], file["sha256"]) for file in known["files"])
        origin = tuple((key, str(known[key])) for key in ("repo", "revision", "config", "split"))
    except (KeyError, TypeError):
        return None
    read = asked.read if asked.read.text_column else replace(asked.read, text_column=column)
    root = cache_folder(cache, asked.repo)
    licence = str(known.get("licence", ""))
    return with_catalog(Source(asked.name, KIND, root, files, read, VAL_PPM, licence, origin=origin), asked)


def cache_folder(cache: Path, repo: str) -> Path:
    """Where copies of a data set's files are kept."""
    return cache / "hub" / repo


def choose(asked: Asked, commit: str, card: Mapping[str, Any], files: Mapping[str, RepoFile]) -> Dataset:
    layout = listing.layout_of(asked.entry, card, list(files))
    chosen = listing.choose(
        asked.spec, asked.entry, layout, asked.config, asked.split, rows_by_split(card, asked.config)
    )
    held = tuple(files[path] for path in chosen.paths)
    return Dataset(asked.repo, commit, card, chosen.config, chosen.split, held, layout)


def rows_by_split(card: Mapping[str, Any], config: str | None) -> dict[str, int]:
    """Rows of each split, where the card says so."""
    found: dict[str, int] = {}
    for facts in listing.as_list(card.get("dataset_info")):
        if isinstance(facts, Mapping) and config in (None, facts.get("config_name", listing.DEFAULT)):
            for split in listing.as_list(facts.get("splits")):
                if isinstance(split, Mapping) and isinstance(split.get("num_examples"), int):
                    found[str(split.get("name"))] = split["num_examples"]
    return found


def licence_of(card: Mapping[str, Any]) -> str:
    """The card's licence, or where to look."""
    said = card.get("license") or "see the repository"
    return ", ".join(map(str, said)) if isinstance(said, list) else str(said)


def meter_of(moved: Callable[[int], None]) -> type[tqdm]:
    """A progress bar that shows nothing and tells `moved` how many bytes came."""

    class Meter(tqdm):  # type: ignore[type-arg,misc,unused-ignore]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            moved(int(n or 0))

    return Meter


def git_sha1_of(path: Path) -> str:
    """What git calls the content of a file."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
