"""`picollm tok eval | export | import | show`: a tokenizer beside others, and for other programs."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from picollm.errors import MissingError, UsageError

if TYPE_CHECKING:
    from picollm.tok.exchange import Counter
    from picollm.tok.tokenizer import Tokenizer

SAMPLE = 4_000_000  # bytes of each kind of text that `eval` reads
BACKGROUNDS = ("blue", "dark_green", "dark_red", "dark_cyan", "purple")
PEERS = {"r50k": ("r50k_base.tiktoken.gz", "gpt2"), "cl100k": ("cl100k_base.tiktoken.gz", "cl100k")}


def shared_data() -> Path:
    """Data beside the checkout, for those who develop; it need not exist."""
    return Path(os.environ.get("PICOLLM_SHARED", "../shared")) / "data"


def sample(path: Path) -> list[bytes]:
    """The first documents of a parquet file (column `text`), or the start of any other file; about 4 MB."""
    if path.suffix != ".parquet":
        with path.open("rb") as opened:
            return [opened.read(SAMPLE)]
    import pyarrow.parquet as pq

    texts: list[bytes] = []
    size = 0
    with pq.ParquetFile(path) as opened:
        for batch in opened.iter_batches(200, columns=["text"]):
            texts += [text.encode() for text in batch.column(0).to_pylist() if text]
            size += sum(map(len, texts[-batch.num_rows :]))
            if size >= SAMPLE:
                break
    return texts


def kinds_of(said: tuple[str, ...]) -> dict[str, list[bytes]]:
    """NAME=FILE as given, else this Python's own library and the texts beside the checkout."""
    if said:
        named = [text.split("=", 1) if "=" in text else [Path(text).stem, text] for text in said]
        missing = [path for _, path in named if not Path(path).is_file()]
        if missing:
            raise MissingError(f"{missing[0]}: no such file", hint="give NAME=FILE, one for each kind of text")
        return {name: sample(Path(path)) for name, path in named}
    from picollm.corpus import stdlib

    listing = stdlib.find()
    files = [listing.root / path for path in listing.paths[:200]]
    kinds = {"python": [path.read_bytes() for path in files]}
    for path in sorted((shared_data() / "bench_corpus").glob("*.parquet")):
        kinds[path.stem.rsplit("_", 1)[0]] = sample(path)
    return kinds


def others() -> "dict[str, Counter]":
    """Known vocabularies that lie beside the checkout or in an installed package."""
    from picollm.tok.exchange import counter, o200k, read_tiktoken

    folder = shared_data() / "tokenizer" / "vocab"
    there = {name: (folder / file, pattern) for name, (file, pattern) in PEERS.items() if (folder / file).is_file()}
    found = {name: counter(read_tiktoken(path, pattern)) for name, (path, pattern) in there.items()}  # type: ignore[arg-type]
    larger = o200k()
    return found if larger is None else {**found, "o200k": larger}


def evaluate(coder: "Tokenizer", said: tuple[str, ...], as_json: bool) -> None:
    """Print bytes per token, one line for each kind of text."""
    from picollm.tok.exchange import compare, counter

    rows = compare(kinds_of(said), {"this": counter(coder), **others()})
    if as_json:
        shown = [{"kind": row.kind, "bytes": row.bytes, "tokens": dict(row.tokens)} for row in rows]
        click.echo(json.dumps({"schema": "picollm.tok-eval/1", "tokenizer": coder.fingerprint, "kinds": shown}))
        return
    names = list(rows[0].tokens)
    click.echo("bytes per token".ljust(18) + "".join(name.rjust(10) for name in names))
    for row in rows:
        click.echo(row.kind.ljust(18) + "".join(f"{row.per_token(name):10.3f}" for name in names))


def export(coder: "Tokenizer", form: str, out: Path) -> None:
    """Write the tokenizer as another program reads it."""
    from picollm.runtime import durable
    from picollm.tok.exchange import tiktoken_ranks
    from picollm.tok.special import transformers_config
    from picollm.tok.tokenizer import CONFIG, FILE

    if form == "tiktoken":
        durable.write(out, tiktoken_ranks(coder))
        click.echo(f"{out}: {coder.bos:,} ranks; split pattern {coder.core.pattern}; specials from id {coder.bos:,} on")
        return
    if (out / FILE).exists():
        raise UsageError(f"{out} holds a tokenizer already", hint="name another folder: --out DIR")
    if form == "hf":
        with durable.lock(out):
            durable.write_json(out / CONFIG, transformers_config(coder.bos))
            durable.write(out / FILE, coder.core.to_json())
    else:
        coder.save(out)
    click.echo(f"{out}  {coder.fingerprint[:12]}")


def bring(path: Path, pattern: str | None, out: Path) -> None:
    """Make a tokenizer's folder from a `tokenizer.json` or a file of tiktoken's ranks."""
    from picollm.tok.exchange import read_tiktoken
    from picollm.tok.tokenizer import FILE, Tokenizer

    if (out / FILE).exists():
        raise UsageError(f"{out} holds a tokenizer already", hint="name another folder: --out DIR")
    if path.is_dir() or path.suffix == ".json":
        made = Tokenizer.load(path)
    elif pattern is None:
        raise UsageError(f"{path}: ranks do not say how text is split", hint="--pattern picollm, cl100k or gpt2")
    else:
        made = Tokenizer.load_bytes(read_tiktoken(path, pattern).core.to_json(), path)  # type: ignore[arg-type]
    made.save(out)
    click.echo(f"{made.vocab_size:,} tokens, pattern {made.core.pattern}\n{out}  {made.fingerprint[:12]}")


def show(coder: "Tokenizer", file: BinaryIO) -> None:
    """The text with a colour behind each token; where there is no terminal, a bar between tokens."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    data = file.read()
    ids = coder.encode(data)
    shown = Text()
    for at, id in enumerate(ids):
        token = coder.token_bytes(id)
        piece = token.decode() if token.isascii() or decodes(token) else token.hex(" ")
        shown.append(piece, style=f"white on {BACKGROUNDS[at % len(BACKGROUNDS)]}" if console.is_terminal else "")
        if not console.is_terminal and at + 1 < len(ids):
            shown.append("|")
    console.print(shown)
    click.echo(
        f"{len(data):,} bytes, {len(ids):,} tokens, {len(data) / max(1, len(ids)):.2f} bytes per token", err=True
    )


def decodes(token: bytes) -> bool:
    """Whether the token is whole characters."""
    try:
        token.decode()
    except UnicodeDecodeError:
        return False
    return True
