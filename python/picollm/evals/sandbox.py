"""Running code that a model wrote, so that the kernel and not the code decides what it can reach.

bubblewrap gives each process namespaces of its own (user, mount, pid, net, ipc, uts), a read-only root that holds an
interpreter and nothing else, 64 MiB of memory to write files into, and the filter of `seccomp`: no second process, no
socket. Limits of time, memory and files are lowered inside. Where any of this cannot be had, nothing runs.

It protects files, network and processes of this machine. It does not protect against a hole in the kernel.
"""

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from picollm.errors import MissingError, UsageError
from picollm.evals.seccomp import rules

SECONDS = 10.0  # of the clock, for a function and its test together
MOST_OUTPUT = 64 * 1024
SCRATCH = 64 * 2**20
MIB = 2**20
LIMITS = {
    "RLIMIT_AS": 512 * MIB,
    "RLIMIT_CPU": 10,
    "RLIMIT_FSIZE": 16 * MIB,
    "RLIMIT_NOFILE": 64,
    "RLIMIT_NPROC": 64,
    "RLIMIT_CORE": 0,
}
INSTALL = "apt install bubblewrap (Linux); without it no code of a model is run"


@dataclass(frozen=True)
class Trial:
    """A model's program and the test it is put to. The parts of `program` run one after the other, in one namespace.

    prompt, test: what the test needs to be defined first, and `check(candidate)`; they run apart from the program.
    """

    program: tuple[str, ...]
    entry_point: str
    prompt: str
    test: str


@dataclass(frozen=True)
class Verdict:
    """why: the name of what the test raised, `timeout`, or `ended` where a side went without a word."""

    passed: bool
    why: str = ""


class Sandbox:
    """Proved once, then used for any number of trials. Raises MissingError where it cannot be had."""

    def __init__(self, seconds: float = SECONDS, bwrap: str = "bwrap") -> None:
        self.seconds = seconds
        found = shutil.which(bwrap)
        self.filter = rules() or b""
        if found is None or not self.filter or not sys.platform.startswith("linux"):
            raise MissingError("no sandbox here: bubblewrap, on Linux, on x86-64 or aarch64", hint=INSTALL)
        self.bwrap = found
        self.prove()

    def prove(self) -> None:
        """The sandbox lets a right answer through and refuses what it must. Raises MissingError."""
        honest = self.run(PROBE)
        if not honest.passed:
            raise MissingError(f"the sandbox does not work here: {honest.why}; {self.complaint()}", hint=INSTALL)

    def complaint(self) -> str:
        """What bubblewrap itself says when it is asked to run nothing."""
        with self.filtered() as fd:
            command = [*self.command(fd, None), "-c", "pass"]
            try:
                ran = subprocess.run(command, capture_output=True, pass_fds=[fd], timeout=self.seconds, check=False)
            except (OSError, subprocess.TimeoutExpired) as error:
                return str(error)
        return ran.stderr[:500].decode(errors="replace").strip() or "it starts, but does not keep code in"

    def run(self, trial: Trial) -> Verdict:
        """Put a program to its test. Nothing of it is alive when this returns."""
        limits = {**LIMITS, "RLIMIT_CPU": int(self.seconds) + 1}
        asked, asking = os.pipe()
        told, telling = os.pipe()
        try:
            answer = {"program": trial.program, "entry_point": trial.entry_point, "limits": limits}
            judge = {
                "prompt": trial.prompt, "test": trial.test, "entry_point": trial.entry_point, "limits": limits,
            }  # fmt: skip
            with self.side("answer", answer, asked, telling), self.side("judge", judge, asking, told) as judging:
                for fd in (asked, asking, told, telling):
                    os.close(fd)
                asked = asking = told = telling = -1
                return verdict(judging, time.monotonic() + self.seconds)
        finally:
            for fd in (asked, asking, told, telling):
                if fd >= 0:
                    os.close(fd)

    @contextmanager
    def side(self, name: str, said: dict[str, Any], calls: int, replies: int) -> Iterator["subprocess.Popen[bytes]"]:
        """One process in a sandbox of its own, killed with all it has on leaving."""
        learning, telling = os.pipe()
        first: int | None = None
        with self.filtered() as fd, closing_fd(learning):
            try:
                process = subprocess.Popen(
                    [*self.command(fd, telling), "/guest.py", name, str(calls), str(replies)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE if name == "judge" else subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[fd, telling, calls, replies],
                    start_new_session=True,
                )
            finally:
                os.close(telling)
            assert process.stdin is not None
            try:
                # Where it did not start, writing fails, or nothing is heard; then no verdict will come.
                with suppress(BrokenPipeError, TimeoutError), process.stdin as stdin:
                    first = first_process(heard(learning, time.monotonic() + self.seconds, until=b"}"))
                    stdin.write(json.dumps(said).encode() + b"\n")
                yield process
            finally:
                process.kill()  # bubblewrap's death kills the first process of the namespace, and that all others
                process.wait()
                if process.stdout is not None:
                    process.stdout.close()
                if first is not None:
                    gone(first)

    @contextmanager
    def filtered(self) -> Iterator[int]:
        """A descriptor from which bubblewrap reads the filter."""
        reading, writing = os.pipe()
        with closing_fd(reading):
            with open(writing, "wb") as file:
                file.write(self.filter)  # a few hundred bytes: a pipe holds them
            yield reading

    def command(self, filter_fd: int, info_fd: int | None) -> list[str]:
        """bubblewrap and an interpreter in it: everything unshared, a minimal root, nothing writable but /tmp."""
        command = [self.bwrap, "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--clearenv"]
        command += ["--cap-drop", "ALL", "--uid", "65534", "--gid", "65534", "--hostname", "sandbox"]
        for place in root():
            command += (
                ["--symlink", os.readlink(place), place] if os.path.islink(place) else ["--ro-bind", place, place]
            )
        command += ["--ro-bind", str(files("picollm.evals") / "guest.py"), "/guest.py"]
        command += ["--size", str(SCRATCH), "--tmpfs", "/tmp", "--chdir", "/tmp", "--remount-ro", "/"]
        command += ["--info-fd", str(info_fd)] if info_fd is not None else []
        return [*command, "--seccomp", str(filter_fd), "--", interpreter(), "-I", "-S", "-B"]


@contextmanager
def closing_fd(fd: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(fd)


def readable(fd: int, deadline: float | None) -> bool:
    """Wait until there is something to read, or the other side has closed; False once the deadline has passed."""
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        return bool(selector.select(None if deadline is None else max(0.0, deadline - time.monotonic())))


def heard(fd: int, deadline: float, until: bytes | None = None) -> bytes:
    """What comes until the other side closes, or says `until`; at most 64 KiB. Raises TimeoutError."""
    said = b""
    while len(said) <= MOST_OUTPUT and (until is None or until not in said):
        if not readable(fd, deadline):
            raise TimeoutError
        piece = os.read(fd, MOST_OUTPUT)
        if not piece:
            break
        said += piece
    return said


def first_process(info: bytes) -> int | None:
    """A descriptor of the namespace's first process, from what bubblewrap tells of it; None where there is none."""
    try:
        return os.pidfd_open(int(json.loads(info)["child-pid"]))
    except (ValueError, KeyError, TypeError, ProcessLookupError):
        return None


def gone(first: int) -> None:
    """Kill a namespace by its first process and wait: the kernel ends that one last."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(first, signal.SIGKILL)
    readable(first, None)
    os.close(first)


def interpreter() -> str:
    """The interpreter itself, without a virtual environment's packages."""
    return os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)


def root() -> Sequence[str]:
    """What an interpreter needs of the file system."""
    places = [place for place in ("/usr", "/lib", "/lib64", "/etc/ld.so.cache") if os.path.lexists(place)]
    own = str(Path(sys.base_prefix).resolve())
    return places if own.startswith("/usr") else [*places, own]


def verdict(judging: "subprocess.Popen[bytes]", deadline: float) -> Verdict:
    """What the judging side says until the deadline, at most 64 KiB of it."""
    assert judging.stdout is not None
    try:
        said = heard(judging.stdout.fileno(), deadline)
    except TimeoutError:
        return Verdict(False, "timeout")
    try:
        found = json.loads(said)
        return Verdict(found["passed"] is True, str(found.get("why", ""))[:100])
    except (ValueError, KeyError, TypeError):
        return Verdict(False, "ended")


# What must be refused is tried from inside, each as a way the answer could be wrong.
PROBE = Trial(
    program=(
        """
import os, socket, threading
def kept_in():
    tried = []
    def refused(name, act):
        try:
            act()
        except OSError:
            return
        tried.append(name)
    refused("fork", os.fork)
    refused("socket", socket.socket)
    refused("write", lambda: open("/usr/probe", "w"))
    refused("root", lambda: open("/probe", "w"))
    refused("hosts", lambda: open("/etc/hostname"))
    refused("processes", lambda: os.listdir("/proc"))
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    return tried + [os.getpid() < 10]
""",
    ),
    entry_point="kept_in",
    prompt="",
    test="def check(candidate):\n    assert candidate() == [True]",
)


def require_consent(allowed: bool) -> None:
    """Raises UsageError unless the user said that code may be run."""
    if not allowed:
        raise UsageError(
            "humaneval runs code that the model writes",
            hint="--allow-code-exec if you want that; it then runs in a sandbox (bubblewrap), or not at all",
        )
