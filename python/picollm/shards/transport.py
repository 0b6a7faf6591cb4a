"""A finished set as one file, for machines without a network: packed here, unpacked and checked there."""

import json
import os
import re
import secrets
import shutil
import tarfile
from pathlib import Path
from typing import IO

from picollm import _rustbpe
from picollm.errors import CheckError, UsageError
from picollm.runtime import durable
from picollm.shards.build import WORK
from picollm.shards.inspect import fault_of
from picollm.shards.manifest import MANIFEST, MANIFESTS, SPLITS, TOKENIZER, ShardSet
from picollm.shards.plan import PLAN

NAME = re.compile(
    r"plan\.json|tokenizer\.json|segment_[0-9]{6,}\.json|manifests/[0-9a-f]{16}\.json|manifest\.json"
    r"|(train|val)_[0-9]{6,}(_[0-9]{2,})?\.(bin|docs\.npy)"
)
READ_ONLY = 0o444
MOST_JSON_BYTES = 1 << 28  # of a manifest in an archive; 10,000 files take about 3 MB


def members(shards: ShardSet) -> list[str]:
    """All files that the newest manifest of a set stands for, by name; the manifest itself last."""
    files = [f"{file.name}{end}" for split in SPLITS for file in shards.splits[split] for end in (".docs.npy", ".bin")]
    records = [f"segment_{index:06d}.json" for index in range(shards.manifest["segments"]["committed"])]
    return [PLAN, TOKENIZER, *files, *records, f"{MANIFESTS}/{shards.fingerprint[:16]}.json", MANIFEST]


def pack(folder: Path, target: Path) -> ShardSet:
    """The set as one plain tar file: the same set is the same bytes. Written beside its place and renamed.

    Raises UsageError if there is such a file, DiskFullError.
    """
    shards = ShardSet.open(folder)
    if target.exists():
        raise UsageError(f"{target}: is there already", hint="choose another name: --out FILE")
    temporary = target.parent / f".{target.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        with tarfile.open(temporary, "x", format=tarfile.PAX_FORMAT) as tar:
            for name in members(shards):
                tar.add(shards.path / name, name, recursive=False, filter=anonymous)
        durable.sync_file(temporary)
        temporary.rename(target)
        durable.sync_directory(target.parent)
    except OSError as error:
        raise durable.failure(target, "write", error) from error
    finally:
        temporary.unlink(missing_ok=True)
    return shards


def anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without owner and time."""
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    info.mode = READ_ONLY
    return info


def unpack(archive: Path, out: Path) -> ShardSet:
    """What `pack` wrote, every byte checked before the manifest gets its name; nothing is written outside `out`.

    Raises UsageError if `out` holds a set, CheckError for an archive that is not whole or not a set's.
    """
    if (out / MANIFEST).exists():
        raise UsageError(f"{out}: holds a set already", hint="choose another folder: --out DIR")
    manifest = b""
    try:
        with tarfile.open(archive, "r:") as tar:
            for info in tar:
                if not (info.isreg() and NAME.fullmatch(info.name)):
                    raise CheckError(f"{archive}: {info.name[:200]!r} is no file of a shard set")
                stream = tar.extractfile(info)
                assert stream is not None, "a regular file has content"
                if info.name == MANIFEST:
                    manifest = stream.read(MOST_JSON_BYTES)
                else:
                    put(out, info.name, stream)
    except (tarfile.TarError, EOFError) as error:
        raise CheckError(f"{archive}: not a whole archive: {error}", hint="fetch it again") from error
    except OSError as error:
        raise durable.failure(out, "unpack into", error) from error
    try:
        fingerprint = str(json.loads(manifest)["fingerprint"])
    except (ValueError, KeyError, TypeError):
        raise CheckError(f"{archive}: no manifest in it", hint="fetch it again") from None
    shards = ShardSet.open(out, fingerprint)
    faults = [fault for split in SPLITS for file in shards.splits[split] if (fault := fault_of(shards, file, None))]
    if faults or manifest != (out / MANIFESTS / f"{fingerprint[:16]}.json").read_bytes():
        raise CheckError("; ".join(faults) or f"{archive}: its two manifests differ", hint="fetch it again")
    _rustbpe.publish(str(out), MANIFEST, manifest)
    return ShardSet.open(out)


def put(out: Path, name: str, stream: IO[bytes]) -> None:
    """One file under its final name, whole and durable, over what an earlier try left."""
    partial = out / WORK / "partial" / f"unpack-{os.getpid()}-{secrets.token_hex(4)}"
    place = out / name
    for folder in (partial.parent, place.parent):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("xb") as file:
            shutil.copyfileobj(stream, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(READ_ONLY)
        partial.rename(place)
        durable.sync_directory(place.parent)
    finally:
        partial.unlink(missing_ok=True)
