"""One thread that owns the model. Requests wait in a short line; whoever leaves takes his request with him.

The event loop never touches the model, and the model's thread never touches a socket: they meet in a `Job`.
"""

import asyncio
import queue
import threading
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from picollm.errors import BusyError
from picollm.infer.engine import Engine, Finish, Request, Token, check

QUEUE = 32  # requests that may wait
RETRY_SECONDS = 5


class EngineFailed(Exception):
    """The model failed on this request; the worker lives on."""


class Job:
    """One request and what has come of it. Use it as a context manager: leaving it ends the work on it."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.loop = asyncio.get_running_loop()
        self.arrived: asyncio.Queue[Token | Finish | Exception] = asyncio.Queue()
        self.left = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.left.set()

    def tell(self, item: Token | Finish | Exception) -> None:
        """From the model's thread. A loop that has closed has nobody left to tell."""
        try:
            self.loop.call_soon_threadsafe(self.arrived.put_nowait, item)
        except RuntimeError:
            self.left.set()

    async def tokens(self) -> AsyncIterator[Token | Finish]:
        """Every token as it comes, then why it ended. Raises EngineFailed."""
        while True:
            item = await self.arrived.get()
            if isinstance(item, Exception):
                raise EngineFailed(str(item)) from item
            yield item
            if isinstance(item, Finish):
                return


class Worker:
    """The line and the thread. `busy` counts requests that run or wait."""

    def __init__(self, engine: Engine, most: int = QUEUE) -> None:
        self.engine = engine
        self.waiting: queue.Queue[Job | None] = queue.Queue(most)
        self.running = False
        self.thread = threading.Thread(target=self._run, name="picollm-model", daemon=True)
        self.thread.start()

    @property
    def busy(self) -> int:
        return self.waiting.qsize() + self.running

    def submit(self, request: Request) -> Job:
        """Join the line. Raises BusyError when it is full, UsageError for a prompt that the engine refuses."""
        check(request, self.engine)
        job = Job(request)
        try:
            self.waiting.put_nowait(job)
        except queue.Full:
            raise BusyError(f"{self.waiting.maxsize} requests are waiting already", hint="try again later") from None
        return job

    def close(self, seconds: float = 10.0) -> None:
        """Finish the token at hand, drop the line, end the thread."""
        while True:
            try:
                job = self.waiting.get_nowait()
            except queue.Empty:
                break
            if job is not None:
                job.tell(EngineFailed("the server is going down"))
        self.waiting.put(None)
        self.thread.join(seconds)

    def _run(self) -> None:
        while (job := self.waiting.get()) is not None:
            if not job.left.is_set():
                self.running = True
                self._answer(job)
                self.running = False

    def _answer(self, job: Job) -> None:
        try:
            generation = self.engine.start(job.request)
            for token in generation:
                if job.left.is_set():
                    return
                job.tell(token)
            job.tell(generation.finish or Finish.LENGTH)
        except Exception as error:  # noqa: BLE001  whatever it is, it is this request's, not the server's
            job.tell(error)
