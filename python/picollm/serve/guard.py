"""What stands between a socket and the app: who may ask, how much, how long.

In this order: token, Host and Origin, size, time, type, shape; each check comes before anything is allocated for
what follows. Nothing of a refused request is echoed.
"""

import asyncio
import hmac
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

MOST_BODY = 256 * 1024
MOST_DEPTH = 32
MOST_FIELDS = 64  # of a request's head
BODY_SECONDS = 10.0
STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
BRACKETS = re.compile(rb"[\[\]{}]")
OPEN = b"[{"

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Refused(Exception):
    """An answer that is given before the app is asked."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Guard:
    """ASGI middleware.

    hosts: what may stand in `Host`, with and without the port; posts: the paths that take a body, all others are
    answered without reading one; token: None asks for none.
    """

    def __init__(self, app: App, *, hosts: frozenset[str], posts: frozenset[str], token: str | None = None) -> None:
        self.app = app
        self.posts = posts
        self.hosts = hosts
        self.token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        try:
            headers = headers_of(scope)
            self.admit(scope, headers)
            if scope["method"] == "POST" and scope["path"] in self.posts:
                receive = replayed(checked_body(headers, await read_body(headers, receive)), receive)
        except Refused as refused:
            await answer(send, refused.status, refused.message)
            return
        await self.app(scope, receive, send)

    def admit(self, scope: Scope, headers: dict[bytes, list[bytes]]) -> None:
        """Raises Refused for a wrong token, a foreign Host or Origin, too many fields."""
        if len(scope["headers"]) > MOST_FIELDS:
            raise Refused(431, f"a request may have {MOST_FIELDS} header fields")
        if self.token is not None and scope["path"] != "/health":
            given = b"".join(headers.get(b"authorization", [])).removeprefix(b"Bearer ")
            if not hmac.compare_digest(given, self.token.encode()):
                raise Refused(401, "a bearer token is needed")
        host = headers.get(b"host", [])
        if len(host) != 1 or host[0].decode("latin-1").lower() not in self.hosts:
            raise Refused(421, "this server is not asked by that name")
        for origin in headers.get(b"origin", []):
            if origin.decode("latin-1").partition("://")[2].lower() != host[0].decode("latin-1").lower():
                raise Refused(403, "another site may not ask this server")


def headers_of(scope: Scope) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.lower(), []).append(value)
    return found


async def read_body(headers: dict[bytes, list[bytes]], receive: Receive) -> bytes:
    """The whole body, counted while it comes. Raises Refused past 256 KiB, 10 s, or where the client leaves."""
    said = headers.get(b"content-length", [b"0"])[0]
    if said.isdigit() and int(said[:20]) > MOST_BODY:
        raise Refused(413, f"a request may have {MOST_BODY:,} bytes")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refused(400, "the request ended early")
                body += message.get("body", b"")
                if len(body) > MOST_BODY:
                    raise Refused(413, f"a request may have {MOST_BODY:,} bytes")
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise Refused(408, f"the request took over {BODY_SECONDS:.0f} s to arrive") from None


def checked_body(headers: dict[bytes, list[bytes]], body: bytes) -> bytes:
    """Raises Refused for what is not one JSON object of bounded depth, each key once, numbers finite."""
    kind = b"".join(headers.get(b"content-type", [])).split(b";")[0].strip().lower()
    if kind != b"application/json":
        raise Refused(415, "send application/json")
    if depth(body) > MOST_DEPTH:
        raise Refused(400, f"nested deeper than {MOST_DEPTH}")
    try:
        value = json.loads(body, object_pairs_hook=once, parse_constant=refuse_constant)
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is no text
    except (ValueError, RecursionError):
        raise Refused(400, "the body is not JSON") from None
    if not isinstance(value, dict):
        raise Refused(400, "the body is not a JSON object")
    return body


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key twice")
    return found


def refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def depth(body: bytes) -> int:
    """How deep brackets nest outside of strings, without recursion.

    >>> depth(b'{"a": [[1], "]]{{"]}')
    3
    """
    level = deepest = 0
    for bracket in BRACKETS.findall(STRINGS.sub(b"", body)):
        level += 1 if bracket in OPEN else -1
        deepest = max(deepest, level)
    return deepest


def replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once, then what the socket says."""
    sent = False

    async def again() -> Message:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return again


def error_body(status: int, message: str) -> dict[str, Any]:
    """An error in the shape that OpenAI's clients read."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


async def answer(send: Send, status: int, message: str) -> None:
    body = json.dumps(error_body(status, message)).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
