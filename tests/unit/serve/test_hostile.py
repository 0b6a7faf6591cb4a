"""Two hundred hostile clients of each kind, and an end to every wait. The full counts: `just hostile`."""

import asyncio
import contextlib
import random
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.campaigns.hostile import KINDS, Found, Target, at_rest, watched
from tests.unit.serve.conftest import Live

from picollm.serve import guard, wire


def target_of(live: Live) -> Target:
    host, _, port = live.url.removeprefix("http://").partition(":")
    return Target(host, int(port))


def attack(live: Live, kind: str, count: int = 200) -> Found:
    async def run() -> Found:
        found = await watched(target_of(live), KINDS[kind][0](target_of(live), count, random.Random(5)))
        assert await at_rest(target_of(live)) == 0
        assert found.health
        assert found.unhealthy == 0
        return found

    return asyncio.run(run())


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines of a fraction of a second."""
    monkeypatch.setattr(wire, "REQUEST_SECONDS", 0.5)
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.4)


@pytest.mark.row("W1")
def test_oversize_bodies_are_refused_or_cut_off(live: Live) -> None:
    found = attack(live, "oversize")
    assert set(found.answers) <= {"413", "400", "closed"}  # 400: a length of more than twenty digits
    assert found.answers["413"] >= 50


@pytest.mark.row("W2")
def test_requests_that_drip_in_are_ended_while_health_answers(
    live: Live, hurried: None, record_property: object
) -> None:
    found = attack(live, "slow")
    record_property("health_ms", found.to_json()["health_ms"])  # type: ignore[operator]
    assert set(found.answers) <= {"408", "closed"}
    assert sum(found.answers.values()) == 200


@pytest.mark.row("W4")
def test_clients_that_leave_at_any_point_leave_no_place_taken(live: Live) -> None:
    found = attack(live, "leaving")
    assert set(found.answers) <= {"left", "200", "429", "closed"}


@pytest.mark.row("W5")
def test_bodies_gone_wrong_are_the_clients_fault(live: Live) -> None:
    found = attack(live, "malformed")
    assert set(found.answers) <= {"200", "400", "413", "415", "422", "429"}


def opened(live: Live) -> socket.socket:
    target = target_of(live)
    return socket.create_connection((target.host, target.port), timeout=30)


@pytest.mark.row("W2")
@pytest.mark.parametrize(
    "begun", ["", "GET /health HTTP/1.1\r\nHost: x", "GET /health HTTP/1.1\r\nHost: {}\r\n\r\nGET /he"]
)
def test_a_head_that_does_not_arrive_ends_the_connection(live: Live, hurried: None, begun: str) -> None:
    """Also the head of a second request on a connection that was kept."""
    with opened(live) as connection:
        connection.sendall(begun.format(live.url.removeprefix("http://")).encode())
        while connection.recv(4096):
            pass


@pytest.mark.row("W2")
def test_a_body_nobody_reads_ends_the_connection_too(live: Live, hurried: None) -> None:
    head = f"GET /health HTTP/1.1\r\nHost: {live.url.removeprefix('http://')}\r\nContent-Length: 9\r\n\r\n12"
    with opened(live) as connection:
        connection.sendall(head.encode())
        while connection.recv(4096):
            pass


@pytest.mark.row("W2")
def test_an_answer_that_is_not_read_is_given_up(
    live: Live, runs: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(wire, "READ_SECONDS", 0.3)
    long = runs / "long"
    long.mkdir()
    request.addfinalizer(lambda: shutil.rmtree(long))
    (long / "metrics.jsonl").write_text(('{"v": 1, "kind": "step", "step": 1, "loss": 1.0}\n') * 200_000)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(60)
        connection.connect((target_of(live).host, target_of(live).port))
        host = live.url.removeprefix("http://")
        connection.sendall(f"GET /api/runs/long/metrics HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        with live.client() as client:
            for _ in range(600):
                if not any(one.client == connection.getsockname() for one in connections_of(client)):
                    break
                time.sleep(0.1)
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    head, _, said = answer.partition(b"\r\n\r\n")
    [length] = [line.split(b":")[1] for line in head.lower().splitlines() if line.startswith(b"content-length:")]
    assert len(said) < int(length)  # what had left before is all there is


def connections_of(client: httpx.Client) -> list[wire.Wire]:
    """Every open connection of this process's servers: the objects themselves."""
    import gc

    assert client.get("/health").status_code == 200
    return [one for one in gc.get_objects() if type(one) is wire.Wire and one in one.connections]


@pytest.mark.row("W3")
def test_a_full_house_lets_those_go_who_have_asked_nothing(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "CONNECTIONS", 8)
    idle = [opened(live) for _ in range(30)]
    try:
        with live.client() as client:
            assert client.get("/health").status_code == 200
        for connection in idle[:20]:
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""
    finally:
        for connection in idle:
            connection.close()


@pytest.mark.row("W2")
def test_one_other_machine_gets_no_more_than_its_share(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "PER_HOST", 3)
    monkeypatch.setattr(wire, "is_local", lambda host: False)
    idle = [opened(live) for _ in range(6)]
    try:
        with live.client() as client:
            assert client.get("/health").status_code == 200
    finally:
        for connection in idle:
            connection.close()


def test_this_machine_is_known_by_its_address() -> None:
    assert all(map(wire.is_local, ("127.0.0.1", "127.9.9.9", "::1", "")))
    assert not any(map(wire.is_local, ("192.0.2.1", "2001:db8::1", "10.0.0.1")))


def test_too_many_header_fields_are_refused(live: Live) -> None:
    with live.client() as client:
        assert client.get("/health", headers={f"x-{n}": "1" for n in range(80)}).status_code == 431


@pytest.fixture(autouse=True)
def lively(live: Live) -> Iterator[None]:
    """After each of these the server still serves."""
    yield
    with live.client() as client:
        assert client.post("/v1/completions", json={"prompt": "ka", "max_tokens": 2}).status_code == 200
    assert threading.active_count() < 60
