"""One thread that owns the model. Requests wait in a short line; whoever leaves takes his request with him.

What runs is decoded together: between two tokens newcomers join the batch, and who is done or gone leaves it. The event
loop never touches the model, and the model's thread never touches a socket: they meet in a `Job`.
"""

import asyncio
import queue
import threading
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from picollm.errors import BusyError
from picollm.infer.engine import Answer, Batch, Engine, Finish, Request, Token, check

QUEUE = 32  # requests that may wait
TOGETHER = 16  # requests decoded in one batch
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


class Running:
    """A job whose answer grows, and how much of it the job has been told."""

    def __init__(self, job: Job, answer: Answer) -> None:
        self.job = job
        self.answer = answer
        self.told = 0

    def tell(self) -> bool:
        """Hand out what is new. False once nothing more will come, or nobody waits for it."""
        for token in self.answer.tokens[self.told :]:
            self.job.tell(token)
        self.told = len(self.answer.tokens)
        if self.answer.error is not None:
            self.job.tell(self.answer.error)
        elif self.answer.finish is not None:
            self.job.tell(self.answer.finish)
        return not (self.answer.ended or self.job.left.is_set())


class Worker:
    """The line and the thread. `busy` counts requests that run or wait."""

    def __init__(self, engine: Engine, most: int = QUEUE, together: int = TOGETHER) -> None:
        self.engine = engine
        self.together = together
        self.waiting: queue.Queue[Job | None] = queue.Queue(most)
        self.running: list[Running] = []
        self.thread = threading.Thread(target=self._run, name="picollm-model", daemon=True)
        self.thread.start()

    @property
    def busy(self) -> int:
        return self.waiting.qsize() + len(self.running)

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
        batch = self._new_batch()
        while True:
            newcomers = self._newcomers(batch)
            if newcomers is None:
                self._fail(EngineFailed("the server is going down"))
                return
            try:
                batch.join(newcomers)
                self._tell(batch)
                if batch.live:
                    batch.step()
                    self._tell(batch)
            except Exception as error:  # noqa: BLE001  whatever it is, it is these requests', not the server's
                self._fail(error)
                batch = self._new_batch()

    def _new_batch(self) -> Batch:
        return Batch(self.engine, self.together, self.engine.context)

    def _newcomers(self, batch: Batch) -> list[Answer] | None:
        """Who may join now; waits for somebody while nobody runs. None: the thread is to end."""
        found: list[Answer] = []
        while len(found) < batch.free:
            try:
                job = self.waiting.get(block=not (self.running or found))
            except queue.Empty:
                break
            if job is None:
                return None
            if not job.left.is_set():
                found.append(Answer(job.request, self.engine))
                self.running.append(Running(job, found[-1]))
        return found

    def _tell(self, batch: Batch) -> None:
        """Hand out what has come; who needs no more gives his place up."""
        for one in list(self.running):
            if not one.tell():
                self.running.remove(one)
                if one.answer in batch.live:
                    batch.leave(one.answer)

    def _fail(self, error: Exception) -> None:
        for one in self.running:
            one.job.tell(error)
        self.running.clear()
