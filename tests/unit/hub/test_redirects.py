"""A public Hub that sends us to an address of our own network is refused; a private one may do as it likes."""

from urllib.parse import urlsplit

import httpx2
import pytest
from tests.hub import Hub, Repository
from tests.unit.hub.conftest import Run

from picollm.corpus import redirects
from picollm.errors import DownloadError

NAMES = {
    "hub.example": "93.184.216.34",
    "cdn.example": "1.1.1.1",
    "inside.example": "10.1.2.3",
    "localhost": "127.0.0.1",
}


def resolve(host: str) -> list[str]:
    return [NAMES.get(host, host)]


def asked(url: str, endpoint: str) -> None:
    redirects.check(httpx2.URL(url), httpx2.URL(endpoint), resolve)


@pytest.mark.row("S11")
@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/x",
        "https://localhost/x",
        "https://[::1]/x",
        "https://[::ffff:127.0.0.1]/x",
        "https://169.254.169.254/latest/meta-data",
        "https://[fe80::1]/x",
        "https://10.0.0.1/x",
        "https://172.16.0.1/x",
        "https://192.168.1.1/x",
        "https://[fd00::1]/x",
        "https://100.64.0.1/x",
        "https://0.0.0.0/x",
        "https://inside.example/x",
        "http://cdn.example/x",
        "ftp://cdn.example/x",
        "file:///etc/passwd",
    ],
)
def test_a_public_hub_may_not_send_us_there(url: str) -> None:
    with pytest.raises(DownloadError, match="refused"):
        asked(url, "https://hub.example")


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("https://cdn.example/x", "https://hub.example"),
        ("https://hub.example/y", "https://hub.example"),
        ("http://cdn.example/x", "http://hub.example"),
        ("http://10.0.0.2/x", "http://10.0.0.1"),
        ("http://127.0.0.1:9/x", "http://localhost:8"),
        ("https://10.1.2.4/x", "https://inside.example"),
    ],
)
def test_what_was_chosen_and_what_is_public_is_asked(url: str, endpoint: str) -> None:
    asked(url, endpoint)


def test_names_are_resolved_and_those_without_an_address_are_left_to_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("picollm.corpus.redirects.getproxies", dict)
    assert redirects.addresses("93.184.216.34") == ["93.184.216.34"]
    assert not redirects.public("localhost", redirects.addresses)
    assert redirects.addresses("no.such.name.invalid") == []
    monkeypatch.setattr("picollm.corpus.redirects.getproxies", lambda: {"https": "http://proxy"})
    assert redirects.addresses("localhost") == []


@pytest.mark.row("S11")
def test_a_redirect_to_this_machine_is_refused_before_a_byte_is_sent(
    hub: Hub, edu: Repository, home: object, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loopback Hub by its name, which is public here, with files that lie at a number, which is not."""
    monkeypatch.setenv("HF_ENDPOINT", f"http://localhost:{urlsplit(hub.url).port}")
    monkeypatch.setattr(redirects, "addresses", lambda host: ["1.1.1.1" if host == "localhost" else host])
    code, _, err = run("shard", "fineweb-edu")
    assert (code, "private network: refused" in err, "HF_ENDPOINT=" in err) == (1, True, True), err
    assert hub.log
    assert not [line for line in hub.log if line.server == "cdn"]
