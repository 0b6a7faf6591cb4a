"""Checkpoints on disk: written elsewhere, committed by a rename, checked to the last byte before use.

Every step of the protocol has a fail point, and at every one of them a kill leaves the previous checkpoint the newest
valid one. All ranks call `save` at one step boundary; a rank that fails aborts the save on all of them.
"""

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from picollm.ckpt.schema import (
    CONFIG,
    MANIFEST,
    MODEL,
    OPTIMIZER_NAME,
    STATE,
    STEP_NAME,
    TOKENIZER,
    UNFINISHED,
    Entry,
    Manifest,
    State,
    damaged,
    optimizer_name,
    step_name,
)
from picollm.ckpt.tensors import write_tensors
from picollm.errors import CheckpointError, PicoError
from picollm.runtime import durable, failpoint
from picollm.runtime.dist import World
from picollm.runtime.together import on_every_rank, on_rank_zero

PRIVATE_DIRECTORY = 0o700
CHUNK = 4 << 20


@dataclass(frozen=True)
class Contents:
    """What one save writes. `weights` are used on rank 0 alone; `optimizer` is this rank's share, keyed by name."""

    state: State
    config: bytes
    tokenizer: bytes
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]


@dataclass(frozen=True)
class Saved:
    """A committed checkpoint: size in bytes, seconds it took, hash of its manifest."""

    path: Path
    size: int
    seconds: float
    sha256: str


def save(root: Path, contents: Contents, world: World) -> Saved:
    """Write `contents` as `root/step-N` and commit it, together with all ranks of `world`.

    Raises PicoError (on every rank the same one) when any rank could not write; nothing is then left but perhaps a
    temporary directory that no reader looks at, and the caller may train on.
    """
    start = time.monotonic()
    temporary = Path(on_rank_zero(world, lambda: str(begin(root, contents.state.step))))
    try:
        shares = on_every_rank(world, lambda: write_share(temporary, contents, world))
        files = {name: Entry(*entry) for share in shares for name, entry in share.items()}
        manifest = Manifest(contents.state.step, contents.state.shards, contents.state.tokenizer, files)
        path = Path(on_rank_zero(world, lambda: str(commit(root, temporary, manifest))))
    except PicoError:
        if world.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    return Saved(path, sum(entry.size for entry in files.values()), time.monotonic() - start, manifest.sha256)


def begin(root: Path, step: int) -> Path:
    """An empty directory beside the final place."""
    temporary = root / f"{step_name(step)}.tmp-{secrets.token_hex(4)}"
    try:
        root.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
        temporary.mkdir(mode=PRIVATE_DIRECTORY)
        failpoint.reach("ckpt.begun")
    except OSError as error:
        raise durable.failure(temporary, "create", error) from error
    return temporary


def write_share(directory: Path, contents: Contents, world: World) -> dict[str, tuple[int, str]]:
    """Write and sync this rank's files; name → (size, sha256)."""
    names = [optimizer_name(world.rank, world.size)]
    try:
        write_tensors(directory / names[0], contents.optimizer)
        if world.rank == 0:
            write_tensors(directory / MODEL, contents.weights)
            texts = {STATE: contents.state.encode(), CONFIG: contents.config, TOKENIZER: contents.tokenizer}
            for name, data in texts.items():
                durable.write_new(directory / name, data)
            names += [MODEL, *texts]
        failpoint.reach("ckpt.synced")
        return {name: ((directory / name).stat().st_size, sha256_of(directory / name)) for name in names}
    except OSError as error:
        raise durable.failure(directory, "write", error) from error


def commit(root: Path, temporary: Path, manifest: Manifest) -> Path:
    """The manifest, then the final name. From the last sync on the checkpoint exists, whatever happens."""
    final = root / step_name(manifest.step)
    try:
        durable.write_new(temporary / MANIFEST, manifest.encode())
        failpoint.reach("ckpt.manifest_synced")
        durable.sync_directory(temporary)
        if final.exists() or final.is_symlink():
            if same(final, manifest):
                shutil.rmtree(temporary)
                return final
            discard(final)  # a rename onto a directory that is not empty fails
        os.rename(temporary, final)
        failpoint.reach("ckpt.renamed")
        durable.sync_directory(root)
    except OSError as error:
        raise durable.failure(final, "commit", error) from error
    failpoint.reach("ckpt.committed")
    return final


def same(path: Path, manifest: Manifest) -> bool:
    try:
        return verify(path) == manifest
    except PicoError:
        return False


def discard(path: Path) -> None:
    """Take the name away in one step, then delete: a kill between leaves nothing half-deleted under a final name."""
    trash = path.parent / f".trash-{path.name}-{secrets.token_hex(4)}"
    os.rename(path, trash)
    durable.sync_directory(path.parent)
    failpoint.reach("ckpt.trashed")
    shutil.rmtree(trash, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes. Raises OSError; a symlink is an error."""
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def verify(path: Path, only: Iterable[str] | None = None) -> Manifest:
    """The manifest of a checkpoint whose every file (or every one in `only`) has the listed size and hash.

    Raises CheckpointError naming the file: damaged, missing, unlisted, a link, or the manifest itself.
    """
    manifest = Manifest.read(path / MANIFEST)
    match = STEP_NAME.fullmatch(path.name)
    if match and int(match[1]) != manifest.step:
        raise damaged(path, f"is named for another step than {manifest.step}")
    found = {entry.name for entry in path.iterdir()}
    if differ := found ^ (set(manifest.files) | {MANIFEST}):
        raise damaged(path, f"missing or unlisted files: {', '.join(sorted(differ))}")
    for name in manifest.files if only is None else only:
        check_file(path / name, manifest.files[name])
    return manifest


def check_file(path: Path, entry: Entry) -> None:
    try:
        if path.is_symlink() or not path.is_file():
            raise damaged(path, "not a plain file")
        if (size := path.stat().st_size) != entry.size:
            raise damaged(path, f"{size:,} bytes, the manifest says {entry.size:,}")
        if sha256_of(path) != entry.sha256:
            raise damaged(path, "content does not match its sha256")
    except OSError as error:
        raise durable.failure(path, "read", error) from error


def candidates(root: Path) -> list[Path]:
    """Directories named as checkpoints, newest first, unchecked."""
    if not root.is_dir():
        return []
    named = [(int(match[1]), path) for path in root.iterdir() if (match := STEP_NAME.fullmatch(path.name))]
    return [path for _, path in sorted(named, reverse=True)]


def newest(root: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that verifies whole; `warn` is told of every newer one that does not.

    None: there is none. Raises CheckpointError when there are some and none is whole.
    """
    damage = None
    for path in candidates(root):
        try:
            verify(path)
        except CheckpointError as error:
            damage = error
            warn(f"checkpoint passed over: {error.message}")
        else:
            return path
    if damage is not None:
        hint = f"copy a whole checkpoint into {root}, or start afresh under another --name"
        raise CheckpointError(f"no whole checkpoint is left in {root}; the last tried: {damage.message}", hint=hint)
    return None


def sweep(root: Path) -> None:
    """Remove what kills left behind. Only the holder of the run's lock may call this."""
    if root.is_dir():
        for path in root.iterdir():
            if UNFINISHED.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)


def prune(root: Path, keep: int, pinned: Iterable[int], known: set[Path]) -> None:
    """Remove all but the newest `keep` whole checkpoints and the steps in `pinned`.

    Damaged ones do not count, so `keep` verified ones remain however the disk behaved. `known`: verified before, in
    this process; new finds are added.
    """
    whole = 0
    spared = {step_name(step) for step in pinned}
    for path in candidates(root):
        if whole >= keep:
            if path.name not in spared:
                discard(path)
            continue
        if path not in known:
            try:
                verify(path)
            except CheckpointError:
                continue
            known.add(path)
        whole += 1


def optimizer_files(path: Path, manifest: Manifest) -> list[Path]:
    """The files that together hold the optimizer's state, whatever the world that wrote them."""
    return [path / name for name in sorted(manifest.files) if OPTIMIZER_NAME.fullmatch(name)]
