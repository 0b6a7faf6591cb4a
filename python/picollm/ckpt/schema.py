"""What a checkpoint directory holds, as values that check themselves.

`step-0000001000/` = `model.safetensors`, `optim-r{k}of{n}.safetensors`, `state.json`, `config.json`,
`tokenizer.json`, and `MANIFEST.json`, written last, which names every other file with size and sha256 and ends in
the sha256 of itself. A directory without a manifest that agrees with every byte is not a checkpoint.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from picollm.errors import CheckpointError
from picollm.runtime import durable

FORMAT = "picollm-checkpoint/1"
MANIFEST = "MANIFEST.json"
MODEL = "model.safetensors"
STATE = "state.json"
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
STEP_NAME = re.compile(r"step-([0-9]{10,})")
UNFINISHED = re.compile(r"step-[0-9]{10,}\.tmp-[0-9a-f]+|\.trash-.+")
FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
OPTIMIZER_NAME = re.compile(r"optim-r[0-9]+of[0-9]+\.safetensors")
SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_JSON = 16 << 20
MAX_CONFIG = 1 << 20
HINT = "picollm takes the newest whole checkpoint beside it; copy this one again, or remove it"


def step_name(step: int) -> str:
    """`step-0000001000`: ten digits, more if needed; compared as integers, never as text."""
    return f"step-{step:010d}"


def optimizer_name(rank: int, size: int) -> str:
    """Which rank wrote it, of how many; neither means anything on load."""
    return f"optim-r{rank}of{size}.safetensors"


def damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path}: {why}", hint=HINT)


def read_json(path: Path, most: int = MAX_JSON) -> dict[str, Any]:
    """The JSON object in a regular file of at most `most` bytes. Raises CheckpointError."""
    try:
        if path.is_symlink() or not path.is_file():
            raise damaged(path, "missing, or not a plain file")
        if (size := path.stat().st_size) > most:
            raise damaged(path, f"{size:,} bytes, more than the {most:,} allowed")
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise durable.failure(path, "read", error) from error
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"not JSON ({error})") from None
    if not isinstance(value, dict):
        raise damaged(path, "not a JSON object")
    return value


@dataclass(frozen=True)
class Entry:
    """One file: size in bytes, sha256 in hex."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The commit record. `shards` is the data set's fingerprint, `tokenizer` the sha256 of its file."""

    step: int
    shards: str
    tokenizer: str
    files: dict[str, Entry]

    def body(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    @property
    def sha256(self) -> str:
        """Hash of everything in the manifest, and so of everything in the checkpoint."""
        return hashlib.sha256(durable.to_json(self.body())).hexdigest()

    def encode(self) -> bytes:
        return durable.to_json(self.body() | {"sha256": self.sha256})

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises CheckpointError on anything that `encode` would not write."""
        value = read_json(path)
        expected = {"format", "step", "shards", "tokenizer", "files", "sha256"}
        if value.get("format") != FORMAT or set(value) != expected or not isinstance(value["files"], dict):
            raise damaged(path, f"not a manifest of {FORMAT}")
        own = value.pop("sha256")
        if hashlib.sha256(durable.to_json(value)).hexdigest() != own:
            raise damaged(path, "does not match its own sha256")
        files = {name: entry_of(path, name, entry) for name, entry in value["files"].items()}
        if missing := {MODEL, STATE, CONFIG, TOKENIZER} - set(files):
            raise damaged(path, f"does not list {', '.join(sorted(missing))}")
        if type(value["step"]) is not int or not all(isinstance(value[name], str) for name in ("shards", "tokenizer")):
            raise damaged(path, "a field has the wrong type")
        return cls(value["step"], value["shards"], value["tokenizer"], files)


def entry_of(path: Path, name: str, value: Any) -> Entry:
    if not FILE_NAME.fullmatch(name) or name == MANIFEST:
        raise damaged(path, f"lists {name!r}, which is no file name here")
    if not isinstance(value, dict) or set(value) != {"size", "sha256"}:
        raise damaged(path, f"the entry of {name} is malformed")
    size, sha256 = value["size"], value["sha256"]
    if type(size) is not int or size < 0 or not isinstance(sha256, str) or not SHA256.fullmatch(sha256):
        raise damaged(path, f"the entry of {name} is malformed")
    return Entry(size, sha256)


KINDS: dict[str, type] = {"int": int, "str": str, "dict": dict}


def kind_of(annotation: Any) -> str:
    """`dict[str, Any]` → `dict`."""
    return str(getattr(annotation, "__name__", annotation))


@dataclass(frozen=True)
class State:
    """`state.json`: all that a resume needs beside the tensors. Floats are hex text, so that no bit is lost.

    Nothing here depends on a clock: a checkpoint of a resumed run has the bytes of an unbroken run's.
    """

    step: int  # attempted; drives schedule and data
    updates: int  # applied; drives bias correction
    stage: str  # "base" or "sft"
    dtype: str  # of the arithmetic: "fp32", "bf16", "fp64"; with `device` it gives the dtype of every stored weight
    device: str  # "cpu", "cuda" or "mps"
    plan: dict[str, Any]
    loader: dict[str, Any]
    rng: dict[str, Any]
    guard: dict[str, Any]
    meters: dict[str, Any]
    evaluated: int  # last step whose evaluation is in the log; -1: none
    best: dict[str, Any] | None
    shards: str
    tokenizer: str
    versions: dict[str, str]
    threads: int
    world_size: int

    def encode(self) -> bytes:
        return durable.to_json({"format": FORMAT, **asdict(self)})

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises CheckpointError on missing or unknown fields and on wrong types."""
        value = read_json(path)
        known = {field.name: kind_of(field.type) for field in fields(cls)}
        if value.pop("format", None) != FORMAT or set(value) != set(known):
            raise damaged(path, f"not a state of {FORMAT}: fields differ: {sorted(set(value) ^ set(known))}")
        for name, kind in known.items():
            if kind in KINDS and type(value[name]) is not KINDS[kind]:
                raise damaged(path, f"{name} is not of type {kind}")
        return cls(**value)
