"""Files that are old or new, never half: write beside, sync, rename, sync the folder.

A rename is atomic but not durable, so a file counts as written only after its folder is synced. After a failed
fsync the descriptor is not trusted again: the kernel may have dropped the pages, so the temporary file is deleted
and the write has failed.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from picollm.errors import BusyError, DiskFullError, PicoError
from picollm.runtime import failpoint

LOCK_NAME = ".lock"
TEMPORARY = re.compile(r"\..+\.tmp-([0-9]+)-[0-9a-f]+")
PRIVATE_FILE = 0o600
UNSIGNED_SECONDS, LOOK_AGAIN_SECONDS = 0.5, 0.001
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def failure(path: Path, doing: str, error: OSError) -> PicoError:
    """The error for people behind an `OSError`: exit 3 when the disk is full, else 1."""
    message = f"{path}: cannot {doing}: {os.strerror(error.errno or 0)} (errno {error.errno})"
    if error.errno in NO_ROOM:
        return DiskFullError(message, hint="free some space, then run the same command again")
    return PicoError(message, hint="repair what the system reports, then run the same command again")


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the content of a file written by somebody else durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, durably: after the return the new bytes survive a power cut.

    The folder must exist. Mode 0600. Raises DiskFullError or PicoError with path and errno; the old file is then
    untouched, and no temporary file is left.
    """
    temporary = path.parent / f".{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        write_new(temporary, data)
        failpoint.reach("durable.synced")
        os.rename(temporary, path)
        failpoint.reach("durable.renamed")
        sync_directory(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise failure(path, "write", error) from error


def write_new(path: Path, data: bytes) -> None:
    """Create `path`, which must not exist, with synced content. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, PRIVATE_FILE)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]  # near a full disk writes are short
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_json(value: Any) -> bytes:
    """Readable JSON in one fixed form: sorted keys, two spaces, a newline at the end. NaN is refused."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def write_json(path: Path, value: Any) -> None:
    """`write` of `to_json(value)`."""
    write(path, to_json(value))


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises PicoError where it cannot be read, ValueError where it is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise failure(path, "read", error) from error


@contextlib.contextmanager
def lock(directory: Path, name: str = LOCK_NAME) -> Iterator[None]:
    """Be the only writer of `directory` (created if absent), else raise BusyError naming the owner's pid, at once.

    `name` is the lock's file in it. The kernel frees the lock when the owner dies, `kill -9` included. Temporary files
    of dead writers are removed.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_FILE)
    except OSError as error:
        raise failure(directory, "lock", error) from error
    try:
        take(descriptor, directory)
        try:
            remove_temporaries(directory)
            yield
        finally:
            os.ftruncate(descriptor, 0)  # nobody is named for what is over
    finally:
        os.close(descriptor)  # frees the lock; the file stays, or a waiting opener would lock an orphan


def take(descriptor: int, directory: Path) -> None:
    """Lock, and write down who did. Who loses looks again for a moment: the winner may not have signed yet, and what
    stands there may be the name of one who is gone."""
    until = time.monotonic() + UNSIGNED_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            if time.monotonic() < until and not (owner.isdecimal() and alive(int(owner))):
                time.sleep(LOOK_AGAIN_SECONDS)
                continue
            raise BusyError(
                f"{directory}: in use by process {owner or 'unknown'}",
                hint="wait for it to end, or choose another name",
            ) from None
        except OSError as error:
            raise failure(directory, "lock", error) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


def remove_temporaries(directory: Path) -> None:
    """Delete what killed writers left in `directory`."""
    for path in directory.iterdir():
        match = TEMPORARY.fullmatch(path.name)
        if match and not alive(int(match[1])):
            path.unlink(missing_ok=True)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
