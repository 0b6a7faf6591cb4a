"""A server on a free port of the loopback, with a tiny model behind it."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from tests.unit.train.base_run import base_run

from picollm.cli.serve import make_service
from picollm.serve.app import Service
from picollm.serve.run import listen, make_server


@dataclass
class Live:
    """A running server."""

    url: str
    service: Service
    token: str | None = None

    def client(self, **options: object) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    base_run(folder)
    lines = [{"v": 1, "kind": "step", "step": step, "loss": 6 - step / 10, "t": step / 10} for step in range(1, 21)]
    (folder / "base" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def started(service: Service, token: str | None, port: int = 0) -> Iterator[Live]:
    with listen("127.0.0.1", port) as socket:
        server = make_server(service, socket, "127.0.0.1", token)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield Live(f"http://127.0.0.1:{socket.getsockname()[1]}", service, token)
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def live(runs: Path) -> Iterator[Live]:
    """A chat model's server: the tiny base model, said to have learned to answer."""
    service = make_service(runs / "base", runs, "cpu")
    object.__setattr__(service, "chats", True)
    yield from started(service, None)
    service.worker.close()


@pytest.fixture(scope="session")
def guarded(runs: Path) -> Iterator[Live]:
    """A base model's server that asks for a token."""
    service = make_service(runs / "base", runs, "cpu")
    yield from started(service, "a-token-of-some-length")
    service.worker.close()


def idle(client: httpx.Client) -> None:
    """Wait until nobody is served, at most a minute."""
    for _ in range(600):
        if client.get("/health").json()["busy"] == 0:
            return
        time.sleep(0.1)
    raise AssertionError("a place in line was not given back")
