"""The socket and the server's life: a Guard in front, uvicorn around, a worker that ends with it."""

import logging
import socket
import sys

import uvicorn

from picollm.serve.app import Service, make_app, post_paths
from picollm.serve.guard import Guard
from picollm.serve.wire import Wire

LINE = 1024  # connections that the kernel holds until they are let in
AT_ONCE = 32  # of them are let in between two looks at what the others have sent
MOST_HEADERS = 16 * 1024
KEEP_ALIVE_SECONDS = 5
GOODBYE_SECONDS = 10
SWITCH_SECONDS = 0.0005  # how long the model's thread may keep the interpreter from the event loop; Python's own: 0.005
NAMES = ("127.0.0.1", "localhost", "[::1]")


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, so that port 0 has a number before anything is printed. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=LINE)


def host_names(host: str, port: int) -> frozenset[str]:
    """What a browser on this machine, or one that was told `host`, puts into `Host`."""
    names = {*NAMES, f"[{host}]" if ":" in host else host}
    return frozenset({*names, *(f"{name}:{port}" for name in names)})


class Server(uvicorn.Server):
    """Lets newcomers in by the handful, so that whoever has come and asked is heard before a crowd pushes him out."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(LINE)


def make_server(service: Service, listener: socket.socket, host: str, token: str | None) -> uvicorn.Server:
    """The app behind its guard, and the limits of the HTTP layer."""
    app = make_app(service)
    hosts = host_names(host, listener.getsockname()[1])
    guarded = Guard(app, hosts=hosts, posts=post_paths(app), token=token)
    return Server(
        uvicorn.Config(
            guarded,
            http=Wire,
            ws="none",
            lifespan="off",
            log_level="error",
            access_log=False,
            server_header=False,
            date_header=False,
            backlog=AT_ONCE,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GOODBYE_SECONDS,
            h11_max_incomplete_event_size=MOST_HEADERS,
        )
    )


def serve(service: Service, listener: socket.socket, host: str, token: str | None) -> None:
    """Answer until SIGINT or SIGTERM; open answers get ten seconds to end."""
    sys.setswitchinterval(SWITCH_SECONDS)
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # that a client has left is no news
    try:
        make_server(service, listener, host, token).run(sockets=[listener])
    finally:
        service.close()
