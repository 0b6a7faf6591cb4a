"""Stopping on request: the handler sets a flag, nothing else; a thread holds the deadline.

A Python handler does not run while the main thread is inside C++ (a collective, a compilation), but the interpreter
writes the signal's number to a pipe at once. The thread behind that pipe starts the clock and ends the process when
the loop did not stop in time; a half-made checkpoint is then left behind under a name that nobody reads.
"""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

DEADLINE_SECONDS = 20.0  # torchrun kills 30 s after it has forwarded the signal
EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 75}  # 75: saved, please requeue


class Stop:
    """Whether somebody asked this process to stop. `last_save` is told to the user when the deadline strikes."""

    def __init__(self, parent: int | None = None) -> None:
        """`parent`: the launcher's pid; when it is no longer the parent, the launcher has died."""
        self.signal: signal.Signals | None = None
        self.parent = parent
        self.last_save = "none"

    def asked(self) -> bool:
        """True once a signal has come, or once the launcher has died and left this process an orphan."""
        if self.signal is None and self.parent is not None and os.getppid() != self.parent:
            self.signal = signal.SIGTERM
        return self.signal is not None

    @property
    def code(self) -> int:
        """130, 143 or 75. A rank that only followed the others' request counts as terminated."""
        return EXIT_CODES[self.signal or signal.SIGTERM]

    @property
    def reason(self) -> str:
        return (self.signal or signal.SIGTERM).name

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or signal.Signals(number)


@contextlib.contextmanager
def watch(stop: Stop, seconds: float = DEADLINE_SECONDS, leave: Callable[[int], None] = os._exit) -> Iterator[Stop]:
    """Let SIGTERM, SIGINT and SIGUSR1 set `stop` inside the block; restore the former handlers after it.

    A signal that came too late for the block to obey goes to the former handler, where a caller has set one.
    Outside the main thread Python allows no handlers: then nobody stops this block but the loop itself.
    """
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    former = {number: signal.signal(number, stop.handle) for number in EXIT_CODES}
    former_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    guard = threading.Thread(target=hold_deadline, args=(reader, stop, seconds, leave), daemon=True)
    guard.start()
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(former_fd)
        for number, handler in former.items():
            signal.signal(number, handler)
        os.close(writer)  # the guard reads the end of the pipe and returns
        guard.join()
        os.close(reader)
    if stop.signal is not None:
        callers = former[stop.signal]
        if callable(callers) and callers is not signal.default_int_handler:
            callers(stop.signal, None)


def hold_deadline(reader: int, stop: Stop, seconds: float, leave: Callable[[int], None]) -> None:
    """Leave the process `seconds` after the first signal, or at the second SIGINT."""
    first: signal.Signals | None = None
    interrupts = 0
    end = 0.0
    while True:
        wait = None if first is None else max(0.0, end - time.monotonic())
        ready, _, _ = select.select([reader], [], [], wait)
        if not ready:
            say(f"not stopped within {seconds:g} s: no new checkpoint, last is {stop.last_save}\n")
            leave(EXIT_CODES[first or signal.SIGTERM])
            return
        numbers = os.read(reader, 64)
        if not numbers:
            return
        asked = [signal.Signals(number) for number in numbers if number in EXIT_CODES]
        if asked and first is None:
            first, end = asked[0], time.monotonic() + seconds
        interrupts += asked.count(signal.SIGINT)
        if interrupts > 1:
            say(f"interrupted twice: no new checkpoint, last is {stop.last_save}\n")
            leave(EXIT_CODES[signal.SIGINT])
            return


def say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
