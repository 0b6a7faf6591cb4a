"""HTTP/1.1 with an end to every wait: a request that does not arrive, an answer that is not read, a full house.

uvicorn's own timers start anew with every byte, so a client that sends one a second would stay for ever. These do not.
"""

import asyncio
import ipaddress
import time

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS = 256
PER_HOST = 16  # from one other machine; on this one they are all the same user's
REQUEST_SECONDS = 10.0  # for the head of a request, and again for its body
READ_SECONDS = 30.0  # for the client to make room for more of its answer
RECEIVING = (h11.IDLE, h11.SEND_BODY)


class Wire(H11Protocol):
    """One connection. `since`: when it began to wait for a request."""

    late: asyncio.TimerHandle | None = None
    stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.await_request()
        self.make_room()

    def await_request(self) -> None:
        """From now on a request has its time to arrive."""
        self.since = time.monotonic()
        self.halt(self.late)
        self.late = self.loop.call_later(REQUEST_SECONDS, self.head_is_late)

    def head_is_late(self) -> None:
        """A body has its own deadline, at which it is answered 408 (`guard`); this is for whoever evades that one."""
        if self.conn.their_state is h11.SEND_BODY and self.cycle is not None and not self.cycle.response_complete:
            self.late = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)
        else:
            self.transport.abort()

    def make_room(self) -> None:
        """Where the house is full, whoever has waited longest without a whole request goes; if all have one, I go."""
        here = [other for other in self.connections if isinstance(other, Wire)]
        same = [other for other in here if other.host == self.host]
        for crowd, most in ((here, CONNECTIONS), (same, CONNECTIONS if is_local(self.host) else PER_HOST)):
            if len(crowd) > most:
                idle = [other for other in crowd if other.receiving and other is not self]
                (min(idle, key=lambda other: other.since) if idle else self).leave()

    def leave(self) -> None:
        self.connections.discard(self)
        self.transport.abort()

    @property
    def host(self) -> str:
        return self.client[0] if self.client else ""

    @property
    def receiving(self) -> bool:
        """Whether no whole request has arrived since the last answer."""
        return self.conn.their_state in RECEIVING

    def handle_events(self) -> None:
        super().handle_events()
        if not self.receiving:
            self.halt(self.late)

    def send_400_response(self, msg: str) -> None:
        """What cannot be answered any more, since an answer has begun, is broken off."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.abort()

    def on_response_complete(self) -> None:
        if not self.transport.is_closing():
            self.await_request()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.halt(self.stuck)
        self.stuck = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        self.halt(self.stuck)
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.halt(self.late)
        self.halt(self.stuck)
        super().connection_lost(exc)

    @staticmethod
    def halt(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()


def is_local(host: str) -> bool:
    """Whether a peer is this machine; a name that is no address, as of a socket file, is."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True
