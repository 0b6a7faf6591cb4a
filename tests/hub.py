"""A Hugging Face Hub on this machine, for tests: two HTTP servers on 127.0.0.1, the hub and its content network (cdn).

Two ports are two origins, so credentials must not follow a redirect from one to the other; the log shows whether they
did. Repositories are maps of paths to bytes; a commit is one such map; branches point at commits. Misbehaviour is
scripted per path with `fault`. Answers follow what huggingface_hub 2.4.0 and datasets 5.2.0 were seen to ask for.
"""

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

CREATED = "2025-01-01T00:00:00.000Z"
LARGE = (".parquet", ".gz", ".zst", ".zip", ".bin")  # what a default .gitattributes stores as LFS
API = re.compile(r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree|paths-info|refs)(?:/([^/]+))?(?:/([^/]+))?)?$")
RESOLVE = re.compile(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True)
class Request:
    """One line of the log."""

    server: str
    method: str
    path: str
    status: int
    range: str | None
    auth: bool
    at: float


@dataclass
class Fault:
    """What is wrong with requests for a path: `kind` with its argument, for so many more requests (-1: for ever)."""

    kind: str
    times: int
    value: Any = None


@dataclass
class Repository:
    """`commits`: 40 hex digits → files. `large`: whether files are LFS, by name, unless a set says which are."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    gated: bool = False
    private: bool = False

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """A new state of a branch; its name."""
        names = "".join(f"{path}:{git_sha1(data)}" for path, data in sorted(files.items()))
        name = hashlib.sha1(f"{len(self.commits)}{names}".encode()).hexdigest()
        self.commits[name] = dict(files)
        self.branches[branch] = name
        return name

    def at(self, revision: str) -> str | None:
        """The commit that a branch or a commit's name means."""
        return self.branches.get(revision) or (revision if revision in self.commits else None)


class Hub:
    """`url` is what HF_ENDPOINT should say. `log` holds every request."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.faults: dict[str, list[Fault]] = {}
        self.log: list[Request] = []
        self.page = 1000
        self.lock = threading.Lock()
        self.servers = [self._server("hub", HubHandler), self._server("cdn", CdnHandler)]
        self.url, self.cdn = (f"http://127.0.0.1:{server.server_address[1]}" for server in self.servers)

    def _server(self, name: str, handler: type["Handler"]) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type(name, (handler,), {"hub": self, "origin": name}))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return server

    def close(self) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def add(self, name: str, files: dict[str, bytes], **facts: Any) -> Repository:
        """A repository with one commit on `main`."""
        repository = Repository(**facts)
        repository.commit(files)
        self.repositories[name] = repository
        return repository

    def fault(self, part: str, kind: str, times: int = 1, value: Any = None) -> None:
        """Requests whose path contains `part` go wrong. Kinds for the hub and the cdn: status (value), rate-limit
        (seconds), reset, stall (seconds); for bodies of the cdn: cut (bytes sent), flip, slow (bytes/s), whole (200
        where 206 was due), length (a wrong Content-Length). `part` may begin with `hub:`, `cdn:` or `HEAD `."""
        self.faults.setdefault(part, []).append(Fault(kind, times, value))

    def fault_of(self, server: str, method: str, path: str) -> Fault | None:
        with self.lock:
            for part, faults in self.faults.items():
                origin, _, rest = part.rpartition(":")
                verb, _, rest = rest.rpartition(" ")
                if rest in path and origin in ("", server) and verb in ("", method):
                    for fault in faults:
                        if fault.times:
                            fault.times -= 1
                            return fault
        return None

    def count(self, server: str, method: str, part: str = "") -> int:
        """Requests in the log, whatever became of them."""
        return sum(line.server == server and line.method == method and part in line.path for line in self.log)


class Handler(BaseHTTPRequestHandler):
    """What both servers do: log, misbehave, answer."""

    hub: ClassVar[Hub]
    origin: ClassVar[str]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.handle_any()

    do_HEAD = do_POST = do_GET

    def handle_any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length) if length else b""
        fault = self.hub.fault_of(self.origin, self.command, unquote(self.path))
        if fault is not None and fault.kind == "status":
            return self.reply(fault.value, b"busy")
        if fault is not None and fault.kind == "rate-limit":
            headers = {
                "RateLimit": f'"resolvers";r=0;t={fault.value}',
                "RateLimit-Policy": '"fixed window";"resolvers";q=3000;w=300',
                "Retry-After": str(fault.value),
            }
            return self.reply(429, b"", headers)
        if fault is not None and fault.kind == "reset":
            self.note(0)
            self.close_connection = True
            return None
        if fault is not None and fault.kind == "stall":
            time.sleep(fault.value)
        return self.answer(fault)

    def answer(self, fault: Fault | None) -> None:
        raise NotImplementedError

    def note(self, status: int) -> None:
        range_ = self.headers.get("Range")
        line = Request(
            self.origin, self.command, unquote(self.path), status, range_, "Authorization" in self.headers,
            time.monotonic(),
        )  # fmt: skip
        with self.hub.lock:
            self.hub.log.append(line)

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.note(status)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reply_json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.reply(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self.reply_json({"error": code}, status, {"X-Error-Code": code, "X-Error-Message": code, **(headers or {})})


class HubHandler(Handler):
    """The API and the resolver."""

    def answer(self, fault: Fault | None) -> None:
        address = urlsplit(self.path)
        query = parse_qs(address.query)
        if match := API.match(address.path):
            name, kind, revision, folder = (unquote(part) if part else "" for part in match.groups())
        elif match := RESOLVE.match(address.path):
            name, revision, folder = (unquote(part) for part in match.groups())
            kind = "resolve"
        else:
            return self.reply_json({"error": "not found"}, 404)
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and "Authorization" not in self.headers):
            return self.refuse(401, "RepoNotFound")
        if repository.gated and "Authorization" not in self.headers and kind != "":
            return self.refuse(403, "GatedRepo")
        if kind == "refs":
            branches = [
                {"name": name, "ref": name if "/" in name else f"refs/heads/{name}", "targetCommit": commit}
                for name, commit in repository.branches.items()
            ]
            plain = [branch for branch in branches if not branch["name"].startswith("refs/")]
            return self.reply_json({"branches": plain, "converts": [], "tags": []})
        commit = repository.at(revision or "main")
        if commit is None:
            return self.refuse(404, "RevisionNotFound")
        files = repository.commits[commit]
        if kind in ("", "revision"):
            return self.info(name, repository, commit)
        if kind == "tree":
            return self.tree(files, folder, query)
        if kind == "paths-info":
            asked = parse_qs(self.body.decode())["paths"]
            return self.reply_json([entry(path, files[path]) for path in asked if path in files])
        return self.resolve(name, commit, files, folder)

    def info(self, name: str, repository: Repository, commit: str) -> None:
        facts = {
            "id": name, "sha": commit, "author": name.split("/")[0], "lastModified": CREATED, "createdAt": CREATED,
            "private": repository.private, "gated": "manual" if repository.gated else False, "disabled": False,
            "tags": [], "downloads": 0, "likes": 0, "cardData": repository.card,
            "siblings": [{"rfilename": path} for path in repository.commits[commit]],
        }  # fmt: skip
        self.reply_json(facts)

    def tree(self, files: dict[str, bytes], folder: str, query: dict[str, list[str]]) -> None:
        inside = {path: data for path, data in files.items() if not folder or path.startswith(f"{folder}/")}
        if folder and not inside:
            return self.refuse(404, "EntryNotFound")
        folders = {path[:at] for path in inside for at, letter in enumerate(path) if letter == "/" and at > len(folder)}
        entries = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": path} for path in sorted(folders)]
        entries += [entry(path, data) for path, data in sorted(inside.items())]
        start = int(query.get("cursor", ["0"])[0])
        end = start + self.hub.page
        links = {}
        if end < len(entries):
            address = self.path.split("?")[0]
            links = {"Link": f'<{self.hub.url}{address}?recursive=true&expand=false&cursor={end}>; rel="next"'}
        return self.reply_json(entries[start:end], headers=links)

    def resolve(self, name: str, commit: str, files: dict[str, bytes], path: str) -> None:
        headers = {"X-Repo-Commit": commit}
        data = files.get(path)
        if data is None:
            return self.refuse(404, "EntryNotFound", headers)
        if not large(path):
            headers["ETag"] = f'"{git_sha1(data)}"'
            status, body, more = ranged(data, self.headers.get("Range"))
            if self.command == "HEAD":
                more["Content-Length"] = str(len(data))
            return self.reply(status, body, {**headers, **more})
        headers |= {
            "Location": f"{self.hub.cdn}/{name}/{commit}/{path}?sig=1",
            "X-Linked-Etag": f'"{sha256(data)}"',
            "X-Linked-Size": str(len(data)),
            "Accept-Ranges": "bytes",
        }
        return self.reply(302, b"", headers)


class CdnHandler(Handler):
    """The bodies of large files."""

    def answer(self, fault: Fault | None) -> None:
        owner, name, commit, path = unquote(urlsplit(self.path).path)[1:].split("/", 3)
        data = self.hub.repositories[f"{owner}/{name}"].commits[commit][path]
        kind = fault.kind if fault else ""
        status, body, headers = ranged(data, None if kind == "whole" else self.headers.get("Range"))
        if kind == "flip":
            body = body[:-9] + bytes([body[-9] ^ 1]) + body[-8:]
        if kind == "length":
            headers["Content-Length"] = str(len(body) + fault.value)
        if kind not in ("cut", "slow"):
            return self.reply(status, body, headers)
        assert fault is not None
        self.note(status)
        self.send_response(status)
        for header, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(header, value)
        self.end_headers()
        if kind == "cut":
            self.wfile.write(body[: fault.value])
            self.close_connection = True
            return None
        for start in range(0, len(body), max(1, fault.value // 20)):
            self.wfile.write(body[start : start + max(1, fault.value // 20)])
            time.sleep(0.05)
        return None


def large(path: str) -> bool:
    return path.endswith(LARGE)


def entry(path: str, data: bytes) -> dict[str, Any]:
    """A file as the tree lists it."""
    facts: dict[str, Any] = {"type": "file", "oid": git_sha1(data), "size": len(data), "path": path}
    if large(path):
        facts["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 134}
    return facts


def ranged(data: bytes, asked: str | None) -> tuple[int, bytes, dict[str, str]]:
    """(status, body, headers) of a request for all of `data` or for `bytes=a-b`."""
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked or "")
    if not match:
        return 200, data, {}
    start = int(match[1])
    end = min(int(match[2] or len(data) - 1), len(data) - 1)
    if start > end:
        return 416, b"", {"Content-Range": f"bytes */{len(data)}"}
    return 206, data[start : end + 1], {"Content-Range": f"bytes {start}-{end}/{len(data)}"}


@contextmanager
def running() -> Iterator[Hub]:
    """A hub for the length of a block."""
    hub = Hub()
    try:
        yield hub
    finally:
        hub.close()
