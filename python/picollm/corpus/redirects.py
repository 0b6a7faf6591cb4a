"""Where a Hub may send us. A public one must not make this machine ask its own network: a redirect to a private,
link-local or loopback address, or from https to anything else, is refused before a byte is sent.

The address that HF_ENDPOINT names is the user's own choice, and one that is private itself may send us where it likes.
Behind a proxy the names are the proxy's to resolve: there only addresses written as numbers are looked at.
"""

import functools
import ipaddress
import socket
from collections.abc import Callable
from urllib.request import getproxies

import httpx2
from huggingface_hub import set_client_factory
from huggingface_hub.utils._http import default_client_factory

from picollm.errors import DownloadError

PROXIES = {"http", "https", "all"}
Resolve = Callable[[str], list[str]]


def addresses(host: str) -> list[str]:
    """The IP addresses of a host; none where it has none that can be learnt here."""
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass
    if getproxies().keys() & PROXIES:
        return []
    try:
        return [str(found[4][0]) for found in socket.getaddrinfo(host, None)]
    except OSError:
        return []


def public(host: str, resolve: Resolve) -> bool:
    """Whether no address of the host is of this machine or of the network around it."""
    return all(ipaddress.ip_address(found.partition("%")[0]).is_global for found in resolve(host))


def check(url: httpx2.URL, endpoint: httpx2.URL, resolve: Resolve) -> None:
    """Raise DownloadError where a request may not go. `endpoint`: whom the user chose to trust."""
    if url.host == endpoint.host and url.scheme == endpoint.scheme:
        return
    if not public(endpoint.host, resolve):
        return
    if url.scheme not in ("https", endpoint.scheme):
        raise DownloadError(f"{endpoint} sends us to {url.scheme}://{url.host}, which is not https: refused")
    if not public(url.host, resolve):
        raise DownloadError(
            f"{endpoint} sends us to {url.host}, an address of this machine or of a private network: refused",
            hint="if that is your own mirror, name it: HF_ENDPOINT=ADDRESS",
        )


@functools.lru_cache(maxsize=1)
def guard(endpoint: str) -> None:
    """Let every request of `huggingface_hub` go through `check` from now on, those after a redirect as well."""

    def look(request: httpx2.Request) -> None:
        check(request.url, httpx2.URL(endpoint), addresses)

    def client() -> httpx2.Client:
        made = default_client_factory()
        made.event_hooks = {**made.event_hooks, "request": [look, *made.event_hooks["request"]]}
        return made

    set_client_factory(client)
