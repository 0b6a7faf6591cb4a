"""Patience with a Hub that is busy or out of reach: what deserves another try, how long to wait, what to say then."""

import contextlib
import random
from collections.abc import Iterator

import httpx2
from huggingface_hub import get_token
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._http import parse_ratelimit_headers

from picollm.corpus.source import OFFLINE
from picollm.errors import DownloadError, MissingError, PicoError

ASK_TRIES = 4  # of a request for facts, before a job has begun
FETCH_TRIES = 6  # of a file, on top of those of huggingface_hub: hours of work hang on it
FIRST_WAIT_SECONDS = 0.5  # doubled after each try
LONGEST_WAIT_SECONDS = 30.0
LONGEST_ORDERED_WAIT_SECONDS = 600.0  # that a server may ask for; its windows are of five minutes
BUSY = (408, 429, 500, 502, 503, 504)


def waits(tries: int) -> Iterator[float | None]:
    """Seconds to wait after each try, longer each time and never quite alike; None after the last."""
    for attempt in range(tries - 1):
        yield min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2**attempt) * random.uniform(0.75, 1.25)
    yield None


def passing(error: Exception, of_file: bool = False) -> bool:
    """Whether another try may help. A file's signed address may have run out: a new one is given to the next try."""
    cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
    if isinstance(cause, (OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError, DisabledRepoError)):
        return False
    if isinstance(cause, (GatedRepoError, EntryNotFoundError)) and not isinstance(cause, LocalEntryNotFoundError):
        return False
    if isinstance(cause, HfHubHTTPError):
        return cause.response.status_code in (*BUSY, *((403, 416) if of_file else ()))
    if isinstance(cause, OSError) and cause.errno is not None and not isinstance(cause, ConnectionError):
        return False  # the disk
    return isinstance(cause, (httpx2.TransportError, FileMetadataError, OSError, ValueError))


@contextlib.contextmanager
def session_of_all() -> Iterator[None]:
    """Requests of `huggingface_hub`, whose threads share a session: it drops that at every connection that fails, and
    who uses it at that moment meets an error of its own making. That is a connection lost. Raises ConnectionError."""
    try:
        yield
    except (AttributeError, RuntimeError) as error:
        dropped = isinstance(error, AttributeError) and error.obj is None and error.name in ("request", "stream")
        if dropped or "client has been closed" in str(error):
            raise ConnectionError("the connection was lost") from error
        raise


def ordered_wait(error: Exception) -> float | None:
    """Seconds that the server asks to wait, None where it does not say."""
    if not isinstance(error, HfHubHTTPError) or error.response.status_code != 429:
        return None
    limit = parse_ratelimit_headers(error.response.headers)
    after = error.response.headers.get("Retry-After", "")
    seconds = limit.reset_in_seconds if limit else int(after) if after.isdigit() else None
    return None if seconds is None else min(seconds + 0.1, LONGEST_ORDERED_WAIT_SECONDS)


def in_words(error: Exception, what: str, endpoint: str) -> PicoError:
    """The error for people: exit 4 for what is missing or out of reach, 1 where the Hub failed."""
    cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
    if isinstance(cause, OfflineModeIsEnabled):
        return MissingError(f"{what}: HF_HUB_OFFLINE is set, and this is not here", hint=OFFLINE)
    if isinstance(cause, GatedRepoError):
        return MissingError(
            f"{what}: the data set is gated", hint=f"ask for access on {endpoint}/datasets/…, then set HF_TOKEN"
        )
    if isinstance(cause, RepositoryNotFoundError):
        seen = "as the owner of HF_TOKEN sees it" if get_token() else "without a token"
        return MissingError(
            f"{what}: no such data set on {endpoint}, {seen}",
            hint="check the name; for a private one set HF_TOKEN; for a path give one that exists",
        )
    if isinstance(cause, HfHubHTTPError):
        status = cause.response.status_code
        if status in (401, 403):
            return MissingError(f"{what}: {endpoint} refuses ({status})", hint="set HF_TOKEN to a token with access")
        return DownloadError(
            f"{what}: {endpoint} answered {status} to the last try", hint="run the same command again: it goes on"
        )
    if isinstance(cause, (httpx2.TransportError, ConnectionError)):
        return MissingError(f"{what}: {endpoint} cannot be reached: {cause!s:.200}", hint=OFFLINE)
    return DownloadError(f"{what}: {cause!s:.300}", hint="run the same command again: it goes on")
