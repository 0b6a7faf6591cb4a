"""`picollm tok encode | decode` as filters: text of any length through a few megabytes, in pieces that change no id."""

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from picollm import _rustbpe
from picollm.errors import UsageError

if TYPE_CHECKING:
    from picollm.tok.tokenizer import Tokenizer

CHUNK = 1 << 20  # bytes read at a time
LONGEST_ID = 20  # digits; a longer one is none


def chunks(file: BinaryIO) -> Iterator[bytes]:
    """What is there, up to a chunk at a time, so that a slow pipe is answered as it speaks."""
    read = getattr(file, "read1", file.read)
    while data := read(CHUNK):
        yield data


def stretches(file: BinaryIO) -> Iterator[bytes]:
    """The bytes of `file`, cut only where a piece starts whatever stands elsewhere. Text without such a place (no word
    ever ends) is one stretch."""
    held = b""
    for chunk in chunks(file):
        searched = max(0, len(held) - 8)
        held += chunk
        cut = _rustbpe.safe_cut(held, max(searched, len(held) - CHUNK // 16))
        if cut is None:
            cut = _rustbpe.safe_cut(held, searched)
        if cut is not None:
            yield held[:cut]
            held = held[cut:]
    if held:
        yield held


def encode(coder: "Tokenizer", file: BinaryIO, schema: str | None) -> None:
    """Ids on one line, or with a `schema` as one JSON object."""
    out = sys.stdout
    if schema is not None:
        out.write(json.dumps({"schema": schema, "tokenizer": coder.fingerprint})[:-1] + ', "ids": [')
    between = " " if schema is None else ", "
    size = count = 0
    for text in stretches(file):
        ids = coder.encode(text)
        out.write((between if count else "") + between.join(map(str, ids)))
        out.flush()
        size, count = size + len(text), count + len(ids)
    out.write("\n" if schema is None else f'], "bytes": {size}, "tokens": {count}}}\n')


def decode(coder: "Tokenizer", file: BinaryIO, schema: str | None) -> None:
    """The bytes of the ids as they come, whole characters at a time; or with a `schema` the text in one JSON object."""
    if schema is not None:
        sys.stdout.write(json.dumps({"schema": schema, "tokenizer": coder.fingerprint})[:-1] + ', "text": "')
    size, held = 0, b""
    for ids in lists_of_ids(file):
        data = coder.decode_bytes(ids)
        size += len(data)
        held += data
        cut = whole(held)
        say(held[:cut], schema)
        held = held[cut:]
    say(held, schema)
    if schema is not None:
        sys.stdout.write(f'", "bytes": {size}}}\n')


def say(data: bytes, schema: str | None) -> None:
    if schema is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        sys.stdout.write(json.dumps(data.decode(errors="replace"))[1:-1])


def whole(data: bytes) -> int:
    """How much of `data` is there before a character that more bytes may finish."""
    for back in range(1, min(3, len(data)) + 1):
        lead = data[-back]
        if 0xC2 <= lead < 0xF5:
            length = 2 + (lead >= 0xE0) + (lead >= 0xF0)
            return len(data) - back if length > back else len(data)
        if not 0x80 <= lead < 0xC0:
            break
    return len(data)


def lists_of_ids(file: BinaryIO) -> Iterator[list[int]]:
    """Numbers between blanks as they come, or those of the object that `encode --json` writes, read whole."""
    held = b""
    parts = chunks(file)
    for chunk in parts:
        held += chunk
        if held.lstrip().startswith(b"{"):
            yield listed(held + b"".join(parts))
            return
        cut = max(held.rfind(blank) for blank in (b" ", b"\n", b"\t", b"\r")) + 1
        yield numbers(held[:cut])
        held = held[cut:]
        if len(held) > LONGEST_ID:
            raise refused(ValueError(f"{held[:LONGEST_ID].decode(errors='replace')}…"))
    yield numbers(held)


def numbers(data: bytes) -> list[int]:
    try:
        return checked(list(map(int, data.split())))
    except ValueError as error:
        raise refused(error) from error


def listed(data: bytes) -> list[int]:
    try:
        said: object = json.loads(data)
        return checked(said["ids"] if isinstance(said, dict) else None)
    except (ValueError, KeyError) as error:
        raise refused(error) from error


def checked(ids: object) -> list[int]:
    if not isinstance(ids, list) or not all(type(id) is int and 0 <= id < 2**32 for id in ids):
        raise ValueError("not a list of ids")
    return ids


def refused(error: Exception) -> UsageError:
    return UsageError(f"no ids here: {error}", hint="give what picollm tok encode writes")
