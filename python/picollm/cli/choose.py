"""Which tokenizer or shard set is meant where none is named (decision 4), and where a new one goes (decision 3)."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import click

from picollm.errors import MissingError

TOKENIZER = "tokenizer.json"
MANIFEST = "manifest.json"
MAKE_TOKENIZER = "picollm tok train --vocab-size 65536"
MAKE_SHARDS = "picollm shard SOURCE"
HASH_SHOWN = 12


@dataclass(frozen=True)
class Kind:
    """What is looked for: a folder is one of these if it holds `marker`, which is written last or alone."""

    name: str
    marker: str
    make: str


TOKENIZERS = Kind("tokenizer", TOKENIZER, MAKE_TOKENIZER)
SHARD_SETS = Kind("shard set", MANIFEST, MAKE_SHARDS)


def choose(kind: Kind, said: str | None, home: Path) -> Path:
    """The folder named `said` (a path, or a name in `home`); unsaid: the most recently finished one in `home`.

    Raises MissingError with what there is and the command that makes one.
    """
    known = sorted(path.parent for path in home.glob(f"*/{kind.marker}"))
    if said is not None:
        for folder in (Path(said), home / said):
            if (folder / kind.marker).is_file():
                return folder
        names = ", ".join(folder.name for folder in known) or "none"
        raise MissingError(f"no {kind.name} {said!r}; in {home}: {names}", hint=kind.make)
    if not known:
        raise MissingError(f"no {kind.name} in {home}", hint=kind.make)
    return max(known, key=lambda folder: ((folder / kind.marker).stat().st_mtime_ns, folder.name))


def announce_tokenizer(folder: Path) -> None:
    """Say on stderr which tokenizer is used."""
    sha256 = hashlib.sha256((folder / TOKENIZER).read_bytes()).hexdigest()
    click.echo(f"tokenizer {folder} ({sha256[:HASH_SHOWN]})", err=True)
