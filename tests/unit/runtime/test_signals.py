import contextlib
import os
import signal
import threading
import time

import pytest

from picollm.cli.shard import stop_politely
from picollm.errors import StoppedError
from picollm.runtime.signals import Stop, watch


def wait_until(done: threading.Event) -> None:
    assert done.wait(10)


@pytest.mark.row("C4")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 75)], ids=lambda x: str(x)
)
def test_a_signal_sets_the_flag_and_the_former_handler_comes_back(number: signal.Signals, code: int) -> None:
    former = signal.getsignal(number)
    with watch(Stop()) as stop:
        assert not stop.asked()
        signal.raise_signal(number)
        assert stop.asked()
    assert stop.code == code
    assert stop.reason == number.name
    assert signal.getsignal(number) is former


def test_a_signal_too_late_for_the_block_reaches_the_handler_around_it() -> None:
    heard: list[int] = []
    former = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with watch(Stop()):
            signal.raise_signal(signal.SIGTERM)
            assert heard == []
    finally:
        signal.signal(signal.SIGTERM, former)
    assert heard == [signal.SIGTERM]


def test_a_stop_is_not_lost_in_a_library_that_swallows_errors() -> None:
    with pytest.raises(StoppedError) as stopped, stop_politely(), contextlib.suppress(Exception):
        signal.raise_signal(signal.SIGINT)
    assert stopped.value.exit_code == 130


def test_the_first_signal_decides_the_code() -> None:
    with watch(Stop()) as stop:
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)
    assert stop.code == 75


def test_the_deadline_ends_a_process_that_does_not_stop(capfd: pytest.CaptureFixture[str]) -> None:
    codes: list[int] = []
    left = threading.Event()

    def leave(code: int) -> None:
        codes.append(code)
        left.set()

    with watch(Stop(), seconds=0.01, leave=leave) as stop:
        stop.last_save = "step 7"
        signal.raise_signal(signal.SIGTERM)
        wait_until(left)
    assert codes == [143]
    assert "no new checkpoint, last is step 7" in capfd.readouterr().err


def test_a_second_interrupt_leaves_at_once_and_a_second_terminate_does_not() -> None:
    codes: list[int] = []
    left = threading.Event()

    def leave(code: int) -> None:
        codes.append(code)
        left.set()

    with watch(Stop(), leave=leave):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert codes == []
        signal.raise_signal(signal.SIGINT)
        wait_until(left)
    assert codes == [130]


@pytest.mark.row("C19")
def test_a_dead_launcher_counts_as_a_request_to_stop() -> None:
    assert not Stop(parent=os.getppid()).asked()
    orphan = Stop(parent=os.getppid() + 1)
    assert orphan.asked()
    assert orphan.code == 143


def test_a_stopped_watch_leaves_no_thread_and_no_descriptor() -> None:
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    with watch(Stop()):
        time.monotonic()
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before
