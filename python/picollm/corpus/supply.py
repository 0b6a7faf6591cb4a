"""Files that arrive while they are used: fetched in the order of the segments, ahead of the readers, within a budget
of bytes, and removed when the last segment that needs them is done.

`Supply` is what the readers' threads ask (`ready`, `done`). It keeps the disk bounded and the order; how a file comes
is its `Remote`'s business.
"""

import contextlib
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from picollm.errors import PicoError
from picollm.runtime import durable

THREADS = 4  # downloads at a time
MOMENT_SECONDS = 0.1  # what `ready` may wait, so that a job that is told to stop stops
MAX_DISK = 8 << 30  # bytes downloaded and not yet encoded, unless said otherwise
ARRIVING = ".arriving-"  # and the owner, below the folder: files that are not whole, or not checked


class FileFacts(Protocol):
    """What is known of a file before it is here: path below the root, size in bytes, sha256 in hex."""

    @property
    def path(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def sha256(self) -> str | None: ...


class Remote(Protocol):
    """Where files come from."""

    def fetch(
        self, file: FileFacts, beside: Path, into: Path, moved: Callable[[int], None], stop: threading.Event
    ) -> None:
        """Bring one file to `into`, whole and checked against its sha256; `beside` is a folder for what is not.

        Tells `moved` of bytes that came. Raises PicoError. May end without the file once `stop` is set.
        """


@dataclass(frozen=True)
class Need:
    """A segment that is to be read: its number, its files, and how much of what is counted it should give."""

    segment: int
    files: tuple[FileFacts, ...]
    estimate: int


@dataclass(frozen=True)
class Wanted:
    """How much is wanted (tokens, characters; None: everything), and what segments gave that need no file any more."""

    amount: int | None = None
    there: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Staging:
    """Where files that are fetched wait to be read. `folder` None: inside what is made of them. `caches`: folders whose
    files need not be fetched again."""

    max_disk: int = MAX_DISK
    folder: Path | None = None
    caches: tuple[Path, ...] = ()


DEFAULT_STAGING = Staging()


@dataclass(eq=False)
class Supply:
    """Fetches what `needs` say into `folder`. Enter it to start, leave it to stop.

    Only what the wanted amount should take is fetched ahead: the estimates, corrected by what the segments so far gave.
    Past that a file is fetched when all segments before it are done, so that no file comes for nothing. `keep`: files
    stay when they are done (a cache). `others`: folders where the same file may already lie, under the same path.
    """

    remote: Remote
    folder: Path
    needs: Sequence[Need]
    wanted: Wanted = field(default_factory=Wanted)
    budget: int = MAX_DISK
    keep: bool = False
    others: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        self.arriving = self.folder / f"{ARRIVING}{owner()}"
        self.changed = threading.Condition()
        self.stopping = threading.Event()
        self.failure: BaseException | None = None
        self.position = {need.segment: at for at, need in enumerate(self.needs)}
        self.gave: list[int | None] = [None] * len(self.needs)  # None: not done
        self.users: dict[str, int] = {}
        for need in self.needs:
            for file in need.files:
                self.users[file.path] = self.users.get(file.path, 0) + 1
        self.here: set[str] = set()
        self.coming: set[str] = set()
        self.held = 0  # bytes reserved
        self.moved = 0  # bytes that came over the network
        self.linked: set[str] = set()  # files of another folder, free of charge

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in abandoned(self.folder, ARRIVING):
            shutil.rmtree(left, ignore_errors=True)
        for _ in range(THREADS):
            threading.Thread(target=self._work, name="picollm-fetch", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop at once: a thread in the middle of a download is left to end by itself, its file is removed."""
        with self.changed:
            self.stopping.set()
            self.changed.notify_all()
        shutil.rmtree(self.arriving, ignore_errors=True)
        if kind is None and not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    # What the readers ask
    def ready(self, segment: int) -> bool:
        """Whether all files of the segment are here; waits a moment for them."""
        files = self.needs[self.position[segment]].files
        with self.changed:
            return self.changed.wait_for(lambda: all(file.path in self.here for file in files), MOMENT_SECONDS)

    def done(self, segment: int, amount: int) -> None:
        """The segment gave `amount`; files that nobody else needs go."""
        at = self.position[segment]
        need = self.needs[at]
        with self.changed:
            self.gave[at] = amount
            for file in need.files:
                self.users[file.path] -= 1
                if not self.users[file.path]:
                    self._let_go(file)
            self.changed.notify_all()

    def check(self) -> None:
        """Raise what ended the supply, if something did."""
        if self.failure is not None:
            raise self.failure

    def counters(self) -> dict[str, int]:
        """Bytes that came, bytes that wait on disk, the most that may wait."""
        return {"fetched": self.moved, "staged": self.held, "budget": self.budget}

    # What the threads do
    def _work(self) -> None:
        try:
            while (file := self._next()) is not None:
                self._bring(file)
                with self.changed:
                    self.coming.discard(file.path)
                    self.here.add(file.path)
                    self.changed.notify_all()
        except BaseException as error:  # noqa: BLE001 (handed to `check`, which raises it where it is seen)
            with self.changed:
                if not self.stopping.is_set() and self.failure is None:
                    self.failure = durable.failure(self.folder, "write", error) if isinstance(error, OSError) else error
                self.stopping.set()
                self.changed.notify_all()

    def _next(self) -> FileFacts | None:
        """Reserve the next file in line, waiting for room and for its turn; None when there is no more to do."""
        with self.changed:
            while not self.stopping.is_set():
                file = self._first_absent()
                if file is None:
                    return None
                if self._turn(file) and (self.keep or self.held + file.size <= self.budget or not self._busy()):
                    self.coming.add(file.path)
                    self.held += file.size
                    return file
                self.changed.wait()
            return None

    def _first_absent(self) -> FileFacts | None:
        for at, need in enumerate(self.needs):
            if self.gave[at] is None:
                for file in need.files:
                    if file.path not in self.here and file.path not in self.coming:
                        return file
        return None

    def _turn(self, file: FileFacts) -> bool:
        """Whether the file should come now: what stands before it will not suffice, by what is known so far."""
        if self.wanted.amount is None:
            return True
        done = [at for at, gave in enumerate(self.gave) if gave is not None]
        foreseen = sum(self.needs[at].estimate for at in done)
        given = sum(self.gave[at] or 0 for at in done)
        first = next(at for at, need in enumerate(self.needs) if self.gave[at] is None and file in need.files)
        before = sum(amount for segment, amount in self.wanted.there.items() if segment < self.needs[first].segment)
        for need, gave in zip(self.needs[:first], self.gave, strict=False):
            likely = need.estimate * given // foreseen if foreseen else need.estimate
            before += likely if gave is None else gave
        return before < self.wanted.amount

    def _busy(self) -> bool:
        """Whether room will be made without another file: one is coming, or a reader has all it needs."""
        return bool(self.coming) or any(
            self.gave[at] is None and all(file.path in self.here for file in need.files)
            for at, need in enumerate(self.needs)
        )

    def _bring(self, file: FileFacts) -> None:
        target = self.folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if same(file, target, self.stopping):
            return
        for other in self.others:
            if same(file, other / file.path, self.stopping):
                target.unlink(missing_ok=True)
                target.symlink_to((other / file.path).absolute())
                with self.changed:
                    self.linked.add(file.path)
                    self.held -= file.size
                return
        self.remote.fetch(file, self.arriving, target, self._count, self.stopping)
        if self.stopping.is_set():
            raise Stopped("stopped")

    def _count(self, moved: int) -> None:
        if self.stopping.is_set():
            raise Stopped("stopped")
        self.moved += moved

    def _let_go(self, file: FileFacts) -> None:
        self.here.discard(file.path)
        if file.path not in self.linked:
            self.held -= file.size
        if not self.keep:
            (self.folder / file.path).unlink(missing_ok=True)


class Stopped(PicoError):
    """A download was told to stop; nobody sees this."""


def same(file: FileFacts, path: Path, stop: threading.Event | None = None) -> bool:
    """Whether `path` holds this file, by size and then by sha256."""
    try:
        return path.stat().st_size == file.size and sha256_of(path, stop) == file.sha256
    except FileNotFoundError:
        return False


def sha256_of(path: Path, stop: threading.Event | None = None) -> str:
    """sha256 of a file in hex. Raises Stopped soon after `stop` is set, OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
            if stop is not None and stop.is_set():
                raise Stopped("stopped")
    return digest.hexdigest()


def owner() -> str:
    """This process, in a form that fits a file name: host.pid."""
    host = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in os.uname().nodename)
    return f"{host}.{os.getpid()}"


def abandoned(folder: Path, prefix: str = "") -> list[Path]:
    """Entries of `folder` named after an owner on this host that is gone."""
    host = owner().rpartition(".")[0]
    found = ((path, path.name.rpartition(".")[2]) for path in sorted(folder.glob(f"{prefix}{host}.*")))
    return [path for path, number in found if number.isdecimal() and not durable.alive(int(number))]


def own_folder(staging: Path) -> Path:
    """This process's folder below `staging`. What a process that is gone left there whole is taken over, once."""
    own = staging / owner()
    staging.mkdir(parents=True, exist_ok=True)
    for left in abandoned(staging):
        with contextlib.suppress(OSError):  # another process may take it at the same moment
            if own.exists():
                shutil.rmtree(left)
            else:
                left.rename(own)
    return own


def clear(staging: Path) -> None:
    """Remove what this process and those that are gone left below `staging`: nothing of it is needed any more."""
    for left in (staging / owner(), *abandoned(staging)):
        shutil.rmtree(left, ignore_errors=True)


def progress_with(
    supply: Supply | None, progress: Callable[[Mapping[str, int]], object] | None
) -> Callable[[Mapping[str, int]], object] | None:
    """`progress` that also tells how the supply stands, and ends the job when the supply has failed."""
    if supply is None:
        return progress

    def tell(counters: Mapping[str, int]) -> None:
        supply.check()
        if progress is not None:
            progress({**counters, **supply.counters()})

    return tell
