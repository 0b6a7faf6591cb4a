"""Hostile clients against `picollm serve`: `just hostile`. Prints JSON; leaves 1 where a promise was broken.

Bodies that are too large, requests that drip in, clients that leave, bodies that are no requests. Meanwhile another
client asks for /health. Promised: no 5xx, no place in line lost, memory bounded, health answered.
"""

import argparse
import asyncio
import contextlib
import http.client
import json
import random
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.unit.train.base_run import base_run

MOST_GROWTH = 64 * 2**20  # bytes of resident memory, over the whole campaign
CLOSED = "closed"
DRIP_SECONDS = 1.0
PATIENCE = 60.0  # a hang guard for one answer
GOOD = {"prompt": "ka", "max_tokens": 40, "stream": True, "temperature": 0.8, "seed": 1, "stop": ["zzz"]}


@dataclass
class Found:
    """What one kind of client met."""

    answers: Counter[str] = field(default_factory=Counter)
    health: list[float] = field(default_factory=list)  # seconds of each look, with what it took to be let in
    unhealthy: int = 0  # answers to them that were not 200
    turned_away: int = 0  # looks that had to be repeated
    seconds: float = 0.0

    @property
    def server_errors(self) -> int:
        return sum(count for status, count in self.answers.items() if status.startswith("5"))

    def to_json(self) -> dict[str, Any]:
        looks = sorted(self.health)
        share = {name: round(1000 * looks[int(at * (len(looks) - 1))], 1) for name, at in
                 (("p50", 0.5), ("p99", 0.99), ("max", 1.0))} if looks else {}  # fmt: skip
        return {"answers": dict(self.answers), "seconds": round(self.seconds, 1), "health_ms": share,
                "health_looks": len(looks), "health_turned_away": self.turned_away}  # fmt: skip


@dataclass
class Target:
    """Where the server listens."""

    host: str
    port: int

    def head(self, path: str = "/v1/completions", *more: str, kind: str = "application/json") -> bytes:
        lines = [f"POST {path} HTTP/1.1", f"Host: {self.host}:{self.port}", f"Content-Type: {kind}", *more]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def request(self, body: bytes, path: str = "/v1/completions") -> bytes:
        return self.head(path, f"Content-Length: {len(body)}") + body

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def get(self, path: str) -> dict[str, Any]:
        async with self.connected() as (reader, writer):
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nConnection: close\r\n\r\n".encode())
            answer = await asyncio.wait_for(reader.read(), PATIENCE)
        found: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
        return found


async def status_of(reader: asyncio.StreamReader, *, whole: bool = False) -> str:
    """The status of an answer, `closed` where none came. whole: read its body too, so that another may follow."""
    try:
        line = await asyncio.wait_for(reader.readline(), PATIENCE)
        if not line.startswith(b"HTTP/1.1 "):
            return CLOSED
        length = 0
        while whole and (field := await asyncio.wait_for(reader.readline(), PATIENCE)).strip():
            if field.lower().startswith(b"content-length:"):
                length = int(field.split(b":")[1])
        await reader.readexactly(length)
        return line.split()[1].decode()
    except (ConnectionError, asyncio.IncompleteReadError):
        return CLOSED


async def crowd(count: int, at_once: int, act: Callable[[int], Awaitable[str]]) -> Counter[str]:
    """`act(0)` … `act(count - 1)`, so many at once, and how often each answer came."""
    answers: Counter[str] = Counter()
    numbers = iter(range(count))

    async def one() -> None:
        for number in numbers:
            try:
                answers[await act(number)] += 1
            except OSError:
                answers[CLOSED] += 1

    await asyncio.gather(*(one() for _ in range(min(at_once, count))))
    return answers


async def oversize(target: Target, count: int, rng: random.Random) -> Counter[str]:
    """Too large by its length, by its chunks, by what it claims, without an end."""
    big = b'{"prompt": "' + b"a" * 300_000 + b'"}'

    async def act(number: int) -> str:
        async with target.connected() as (reader, writer):
            kind = number % 4
            if kind == 0:
                writer.write(target.request(big))
            elif kind == 1:
                writer.write(target.head("/tokenize", f"Content-Length: {10 ** rng.randrange(6, 30)}") + b"{")
            else:
                writer.write(target.head("/v1/chat/completions", "Transfer-Encoding: chunked"))
                for _ in range(40 if kind == 2 else 4):
                    piece = big[: 8_000 if kind == 2 else 100_000]
                    writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                    with contextlib.suppress(ConnectionError):
                        await writer.drain()
            return await status_of(reader)

    return await crowd(count, 50, act)


async def slow(target: Target, count: int, rng: random.Random) -> Counter[str]:
    """All at the same time, a byte a second: of the head, of the body, or nothing at all."""

    async def act(number: int) -> str:
        async with target.connected() as (reader, writer):
            head = target.head("/tokenize", "Content-Length: 1000")
            dripping = (head, head + b'{"text": "', b"")[number % 3]
            if number % 3 == 1:
                writer.write(head)
                dripping = dripping[len(head) :] + b"a" * 900
            answer = asyncio.ensure_future(status_of(reader))
            for byte in dripping:
                if (await asyncio.wait({answer}, timeout=DRIP_SECONDS))[0]:
                    break
                writer.write(bytes([byte]))
            return await answer

    return await crowd(count, count, act)


async def leaving(target: Target, count: int, rng: random.Random) -> Counter[str]:
    """Gone half way through the request, before the first byte of the answer, after it, or with a reset."""
    request = target.request(json.dumps(GOOD).encode())

    async def act(number: int) -> str:
        async with target.connected() as (reader, writer):
            kind = number % 4
            writer.write(request[: rng.randrange(len(request))] if kind == 0 else request)
            await writer.drain()
            status = await status_of(reader) if kind == 1 else "left"
            if kind != 2:
                raw = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            return status

    return await crowd(count, 24, act)


SEEDS = [
    ("/v1/completions", {**GOOD, "max_tokens": 1, "stream": False}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, "temperature": 0.5}),
    ("/tokenize", {"text": "a\u00e9\U0001f642"}),
    ("/detokenize", {"ids": [1, 2, 3]}),
    ("/api/plan", {"words": ["--depth", "4"]}),
]
VALUES = ["NaN", "1e999", "-0", "9" * 400, chr(34) + "\\ud800" + chr(34), "null", "true", "[]", "{}",
          "[" * 40 + "]" * 40, '"' + "x" * 300 + '"',
          "-1", "0.5", "2147483648", "18446744073709551616", '"\\u0000"', "[[[]]]", '{"a":1,"a":2}']  # fmt: skip


def malformed_body(rng: random.Random) -> tuple[str, bytes]:
    """A request with a few bytes, values or halves of it gone wrong."""
    path, value = rng.choice(SEEDS)
    body = bytearray(json.dumps(value).encode())
    for _ in range(rng.randrange(1, 4)):
        how, at = rng.randrange(5), rng.randrange(len(body))
        if how == 0:
            body[at] = rng.randrange(256)
        elif how == 1:
            del body[at : at + rng.randrange(1, 9)]
        elif how == 2:
            body[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif how == 3:
            colon = body.find(b":", at)
            end = min((place for place in (body.find(b",", colon), body.find(b"}", colon)) if place > 0), default=at)
            body[colon + 1 : end] = rng.choice(VALUES).encode()
        else:
            del body[at:]
        body = body or bytearray(b"{")
    return path, bytes(body)


async def malformed(target: Target, count: int, rng: random.Random) -> Counter[str]:
    """Over connections that are kept, as long as the server keeps them."""
    answers: Counter[str] = Counter()
    numbers = iter(range(count))

    async def one() -> None:
        waiting = next(numbers, None)
        while waiting is not None:
            async with target.connected() as (reader, writer):
                while waiting is not None:
                    path, body = malformed_body(rng)
                    writer.write(target.request(body, path))
                    status = await status_of(reader, whole=True)
                    answers[status] += 1
                    waiting = next(numbers, None)
                    if status in (CLOSED, "400", "415"):  # the guard's refusals close; the app's do not, and may stay
                        break

    await asyncio.gather(*(one() for _ in range(8)))
    return answers


Kind = Callable[[Target, int, random.Random], Coroutine[Any, Any, Counter[str]]]
KINDS: dict[str, tuple[Kind, int]] = {
    "oversize": (oversize, 10_000),
    "slow": (slow, 1_000),
    "leaving": (leaving, 10_000),
    "malformed": (malformed, 100_000),
}


async def watched(target: Target, attack: Coroutine[Any, Any, Counter[str]]) -> Found:
    """The attack, and health asked for all the while, from a thread of its own."""
    found, over = Found(), threading.Event()
    looking = threading.Thread(target=look, args=(target, found, over))
    started = time.monotonic()
    looking.start()
    try:
        found.answers = await attack
    finally:
        over.set()
        looking.join()
    found.seconds = time.monotonic() - started
    return found


def look(target: Target, found: Found, over: threading.Event) -> None:
    """Ask for /health twenty times a second."""
    while not over.wait(0.05):
        asked = time.monotonic()
        while True:
            connection = http.client.HTTPConnection(target.host, target.port, timeout=PATIENCE)
            try:
                connection.request("GET", "/health")
                status = connection.getresponse().status
                break
            except (ConnectionError, http.client.BadStatusLine):
                found.turned_away += 1
            finally:
                connection.close()
        found.unhealthy += status != 200
        found.health.append(time.monotonic() - asked)


async def at_rest(target: Target) -> int:
    """Requests that still run or wait, once that number has had a minute to become 0."""
    for _ in range(600):
        busy = int((await target.get("/health"))["busy"])
        if busy == 0:
            return 0
        await asyncio.sleep(0.1)
    return busy


def resident(pid: int) -> int:
    """Bytes of memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


def most_resident(pid: int) -> int:
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


@contextlib.contextmanager
def serving(runs: Path) -> Iterator[tuple[Target, int]]:
    """The command as it is typed, in a process of its own: where it listens, and its number."""
    command = [sys.executable, "-m", "picollm.cli.main", "serve", "base", "--port", "0", "--device", "cpu"]
    process = subprocess.Popen([*command, "--runs-dir", str(runs)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().rpartition("http://")[2].strip()
        host, _, port = address.partition(":")
        yield Target(host, int(port)), process.pid
    finally:
        process.terminate()
        process.wait()


async def campaign(target: Target, pid: int, counts: dict[str, int], seed: int) -> dict[str, Any]:
    """Every kind, one after the other. `broken` lists what was promised and did not hold."""
    rng = random.Random(seed)
    await crowd(64, 16, lambda number: good(target))  # the memory of ordinary work is not what is asked for
    before = resident(pid)
    kinds: dict[str, Any] = {}
    broken = []
    for name, count in counts.items():
        found = await watched(target, KINDS[name][0](target, count, rng))
        busy = await at_rest(target)
        kinds[name] = {"count": count, **found.to_json(), "busy_after": busy, "resident": resident(pid)}
        broken += [f"{name}: {found.server_errors} server errors"] if found.server_errors else []
        broken += [f"{name}: {busy} places lost"] if busy else []
        broken += [f"{name}: health was not well {found.unhealthy} times"] if found.unhealthy else []
        print(name, json.dumps(kinds[name]), file=sys.stderr)
    growth = most_resident(pid) - before
    broken += [f"memory grew by {growth:,} bytes"] if growth > MOST_GROWTH else []
    last = await good(target)
    broken += [] if last == "200" else [f"a good request afterwards: {last}"]
    return {"seed": seed, "kinds": kinds, "resident_before": before, "growth": growth, "broken": broken}


async def good(target: Target) -> str:
    async with target.connected() as (reader, writer):
        writer.write(target.request(json.dumps({**GOOD, "stream": False}).encode()))
        return await status_of(reader)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", type=float, default=1.0, help="of the full counts")
    parser.add_argument("--only", choices=KINDS, action="append")
    parser.add_argument("--replay", type=int, default=None, metavar="SEED")
    said = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if said.replay is None else said.replay
    counts = {name: max(1, int(said.part * full)) for name, (_, full) in KINDS.items() if name in (said.only or KINDS)}
    with tempfile.TemporaryDirectory() as folder:
        base_run(Path(folder))
        with serving(Path(folder)) as (target, pid):
            result = asyncio.run(campaign(target, pid, counts, seed))
    print(json.dumps(result, indent=1))
    raise SystemExit(1 if result["broken"] else 0)


if __name__ == "__main__":
    main()
