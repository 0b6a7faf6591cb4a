"""Who may ask, how much and how: refused before anything is allocated, in OpenAI's shape, never with a 5xx."""

import json
import random
import socket

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.serve.conftest import Live, idle

from picollm.serve.guard import MOST_BODY, depth

JSON = {"Content-Type": "application/json"}


@pytest.mark.row("W6")
def test_every_route_but_health_asks_for_the_token(guarded: Live) -> None:
    with guarded.client() as client:
        assert client.get("/health").json()["status"] == "ok"
        for path in ("/", "/v1/models", "/api/runs", "/api/about", "/page/app.js", "/openapi.json", "/nowhere"):
            assert client.get(path).status_code == 401, path
        assert client.post("/tokenize", json={"text": "a"}).status_code == 401
        for wrong in ("", "Bearer", "Bearer a-token-of-some-lengt", "Bearer a-token-of-some-length2", "Basic YTpi"):
            assert client.get("/v1/models", headers={"Authorization": wrong}).status_code == 401
        right = {"Authorization": f"Bearer {guarded.token}"}
        assert client.get("/v1/models", headers=right).status_code == 200
        assert client.post("/v1/chat/completions", json={"messages": []}, headers=right).status_code == 400


@pytest.mark.row("W7")
@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "127.0.0.1:1", "", "localhost:80@evil.example"]
)
def test_another_name_for_this_server_is_refused(live: Live, host: str) -> None:
    with live.client() as client:
        assert client.get("/v1/models", headers={"Host": host}).status_code in (400, 421)


@pytest.mark.row("W7")
def test_a_foreign_origin_a_form_and_a_preflight_get_nothing(live: Live) -> None:
    with live.client() as client:
        for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
            refused = client.post("/tokenize", json={"text": "a"}, headers={"Origin": origin})
            assert refused.status_code == 403
            assert not [name for name in refused.headers if name.startswith("access-control")]
        assert client.post("/tokenize", json={"text": "a"}, headers={"Origin": live.url}).status_code == 200
        assert client.post("/tokenize", data={"text": "a"}).status_code == 415
        preflight = client.options("/tokenize", headers={"Origin": "http://evil.example"})
        assert preflight.status_code == 403


def test_a_method_that_a_path_does_not_have_is_405_and_its_body_is_not_read(live: Live) -> None:
    with live.client() as client:
        for path in ("/health", "/v1/models", "/api/runs"):
            for method in ("PUT", "PATCH", "DELETE", "POST"):
                assert client.request(method, path, content=b"x").status_code == 405, (method, path)
        assert client.put("/tokenize", json={"text": "a"}).status_code == 405


@pytest.mark.row("W1")
def test_a_body_past_the_cap_is_refused_however_it_comes(live: Live) -> None:
    big = b'{"text": "' + b"a" * MOST_BODY + b'"}'
    with live.client() as client:
        assert client.post("/tokenize", content=big, headers=JSON).status_code == 413
        chunked = client.post(
            "/tokenize", content=(big[at : at + 9999] for at in range(0, len(big), 9999)), headers=JSON
        )
        assert chunked.status_code == 413
        claimed = client.build_request("POST", "/tokenize", content=b"{}", headers={**JSON, "Content-Length": "9" * 30})
        assert client.get("/health").status_code == 200
        with pytest.raises((httpx.HTTPError, AssertionError)):
            assert client.send(claimed).status_code == 413


BODIES = [
    "", "[]", "1", '"a"', "{", '{"text": NaN}', '{"text": 1e999}', '{"text": "\\ud800"}', '{"text": "a", "text": "b"}',
    "[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, '{"text": ' + "9" * 5000 + "}", '{"text": null}',
    '{"text": 1}', "{}",
]  # fmt: skip


@pytest.mark.row("W5")
@pytest.mark.parametrize("path", ["/tokenize", "/detokenize", "/v1/completions", "/v1/chat/completions", "/api/plan"])
def test_a_malformed_body_is_the_clients_fault(live: Live, path: str) -> None:
    with live.client() as client:
        for body in [*map(str.encode, BODIES), b"\xff\xfe", b'{"text": "\xff"}']:
            answer = client.post(path, content=body, headers=JSON)
            assert 400 <= answer.status_code < 500, (body[:60], answer.text)
            assert answer.json()["error"]["type"] == "invalid_request_error"
            assert "NaN" not in answer.text.replace("NaN is not", "")


FIELDS = {
    "temperature": [-1, 3, "0.5", [], True], "top_p": [0, 1.5], "top_k": [-1, 10**9, 0.5], "min_p": [2],
    "n": [2, 0, True],
    "max_tokens": [0, 10**12, "1", -5], "seed": [-1, 2**63, 10**400, 1.5], "stop": [["a"] * 5, "", "x" * 65, [1]],
    "messages": [[], [{}], [{"role": "tool", "content": "a"}], [{"role": "user", "content": ""}],
                 [{"role": "assistant", "content": "a"}], [{"role": "user", "content": "a"}] * 2, "hi"],
}  # fmt: skip


@pytest.mark.row("W5")
@pytest.mark.parametrize(("field", "values"), FIELDS.items())
def test_a_value_out_of_bounds_is_named(live: Live, field: str, values: list[object]) -> None:
    good = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    with live.client() as client:
        for value in values:
            answer = client.post("/v1/chat/completions", content=json.dumps({**good, field: value}), headers=JSON)
            assert answer.status_code == 400, (field, value)
        assert client.post("/v1/chat/completions", json=good).status_code == 200


@pytest.mark.row("W14")
def test_requests_that_two_servers_could_read_differently_are_refused(live: Live) -> None:
    host, port = live.url.removeprefix("http://").split(":")
    start = f"POST /tokenize HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
    raw = [
        start + "Content-Length: 4\r\nContent-Length: 5\r\n\r\n{}{}",
        start + "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        start + "Content-Length: -1\r\n\r\n{}",
        start.replace("Host", "Host : x\r\nHost") + "Content-Length: 2\r\n\r\n{}",
        "GET / HTTP/1.1\r\n\r\n",
    ]
    for request in raw:
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(request.encode())
            assert connection.recv(64).split()[1][:1] == b"4", request


def test_random_bodies_never_make_a_server_error(live: Live) -> None:
    """Tier P of the hostile clients: 200 malformed bodies."""
    draw = random.Random(11)
    seed = json.dumps({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "temperature": 0.5})
    with live.client() as client:
        for _ in range(200):
            body = bytearray(seed.encode())
            for _ in range(draw.randrange(1, 4)):
                body[draw.randrange(len(body))] = draw.randrange(256)
            answer = client.post("/v1/chat/completions", content=bytes(body), headers=JSON)
            assert answer.status_code < 500, bytes(body)
        idle(client)


@given(st.recursive(st.none() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_depth_is_counted_without_recursion(value: object) -> None:
    def deep(one: object) -> int:
        if isinstance(one, dict):
            return 1 + max(map(deep, one.values()), default=0)
        return 1 + max(map(deep, one), default=0) if isinstance(one, list) else 0

    assert depth(json.dumps(value).encode()) == deep(value)
