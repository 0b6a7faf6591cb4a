"""Code of a stranger: what it tries is refused by the kernel, it cannot lie to its test, and nothing outlives it."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from picollm.errors import MissingError, UsageError
from picollm.evals import seccomp
from picollm.evals.sandbox import Sandbox, Trial, Verdict, require_consent


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    if shutil.which("bwrap") is None:
        pytest.skip("no bubblewrap here; what is then refused is tested below")
    return Sandbox(seconds=1.5)


def put(sandbox: Sandbox, code: str, check: str = "assert candidate() == 'right'") -> Verdict:
    """`code` against a test of one line."""
    return sandbox.run(Trial((code,), "f", "", f"def check(candidate):\n    {check}\n"))


def test_a_right_answer_passes_and_a_wrong_one_does_not(sandbox: Sandbox) -> None:
    assert put(sandbox, "def f():\n    return 'right'") == Verdict(True)
    assert put(sandbox, "def f():\n    return 'wrong'") == Verdict(False, "AssertionError")
    assert put(sandbox, "def f(:") == Verdict(False, "ended")


@pytest.mark.parametrize(
    "value", ["None", "(1, 2.5, 'x')", "{'a': [1, {2, 3}]}", "b'\\x00'", "float('inf')", "1 + 2j", "10 ** 5000", "True"]
)
def test_values_cross_between_the_two_sides_unchanged(sandbox: Sandbox, value: str) -> None:
    check = f"assert candidate({value}) == ({value}, {value})"
    assert put(sandbox, f"def f(x):\n    return (x, {value})", check).passed


def test_an_exception_crosses_by_its_name(sandbox: Sandbox) -> None:
    check = "\n    ".join(("try:", "    candidate()", "except KeyError:", "    return", "assert False"))
    assert put(sandbox, "def f():\n    raise KeyError('x')", check).passed


# ruff: noqa: E501
LIES = {
    "leaves happily at once": "import sys; sys.exit(0)",
    "leaves without a word": "import os; os._exit(0)",
    "leaves when asked": "import os\ndef f(): os._exit(0)",
    "patches assert's error": "import builtins\nbuiltins.AssertionError = Exception\ndef f(): return 'wrong'",
    "equals everything": "class Any(str):\n  __eq__ = lambda s, o: True\n  __hash__ = str.__hash__\ndef f(): return Any('wrong')",
    "equals everything, no str": "class Any:\n  def __eq__(s, o): return True\ndef f(): return Any()",
    "writes a verdict": "import os\ndef f():\n  for d in range(3, 64):\n    try: os.write(d, b'{\"passed\": true}\\n')\n    except OSError: pass\n  return 'wrong'",
    "prints a verdict": "print('{\"passed\": true}', flush=True)\ndef f(): return 'wrong'",
    "looks for the test": "import sys\ndef f():\n  g = sys._getframe()\n  while g.f_back: g = g.f_back\n  g.f_globals['check'] = None\n  return 'wrong'",
    "names itself check": "def check(c): pass\ndef f(): return 'wrong'",
}  # fmt: skip


@pytest.mark.parametrize("code", LIES.values(), ids=LIES)
def test_pretending_is_not_passing(sandbox: Sandbox, code: str) -> None:
    assert not put(sandbox, code).passed


TRIES = {
    "fork": "os.fork()",
    "forkpty": "os.forkpty()",
    "vfork by name": "call(58)",
    "posix.system": "__import__('posix').system('true') and 1 / 0",
    "subprocess": "__import__('subprocess').run(['/usr/bin/true'])",
    "spawn": "os.spawnv(os.P_WAIT, '/usr/bin/true', ['true']) and 1 / 0",
    "multiprocessing": "__import__('multiprocessing').get_context('fork').Process(target=int).start()",
    "tcp": "socket.create_connection(('127.0.0.1', 80))",
    "tcp out": "socket.create_connection(('192.0.2.1', 80), 1)",
    "unix socket": "socket.socket(socket.AF_UNIX)",
    "netlink": "socket.socket(16, 3, 0)",
    "raw": "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "socketpair": "socket.socketpair()",
    "write root": "open('/x', 'w')",
    "write usr": "open('/usr/x', 'w')",
    "write guest": "open('/guest.py', 'w')",
    "write etc": "os.mkdir('/etc/x')",
    "read etc": "open('/etc/passwd')",
    "read home": "open('/root/.bashrc')",
    "read host tmp": "open(CANARY)",
    "write host tmp": "open(CANARY, 'w')",
    "proc": "open('/proc/1/environ')",
    "proc root": "os.listdir('/proc/1/root')",
    "sys": "os.listdir('/sys')",
    "dev": "open('/dev/kmsg', 'w')",
    "dev mem": "os.open('/dev/mem', 2)",
    "symlink out": "(os.symlink(CANARY, '/tmp/l'), open('/tmp/l'))",
    "hard link": "os.link('/usr/bin/env', '/tmp/e')",
    "mknod": "os.mknod('/tmp/d', 0o20666, os.makedev(1, 1))",
    "chmod": "os.chmod('/usr', 0o777)",
    "chroot": "os.chroot('/tmp')",
    "chown": "os.chown('/tmp', 0, 0)",
    "setuid": "os.setuid(0)",
    "setgid": "os.setgid(0)",
    "setgroups": "os.setgroups([0])",
    "nice": "os.nice(-5)",
    "realtime": "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))",
    "raise a limit": "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "kill the parent": "os.kill(os.getppid(), 9) or 1 / 0 if os.getppid() > 1 else os.kill(99, 9)",
    "ptrace": "call(101)",
    "ptrace a parent": "call(101, 16, os.getppid())",
    "io_uring": "call(425, 8, 0)",
    "bpf": "call(321, 0, 0, 0)",
    "perf": "call(298, 0, 0, -1, -1, 0)",
    "userfaultfd": "call(323, 0)",
    "mount": "call(165, 0, b'/tmp', b'tmpfs', 0, 0)",
    "umount": "call(166, b'/tmp', 0)",
    "unshare": "call(272, 0x10000000)",
    "setns": "call(308, 0, 0)",
    "keyctl": "call(250, 0, 0)",
    "add_key": "call(248, b'user', b'x', b'y', 1, -1)",
    "memfd": "os.memfd_create('x')",
    "shm": "call(29, 0, 1 << 30, 0o1600)",
    "process_vm_readv": "call(310, 1, 0, 0, 0, 0, 0)",
    "open_by_handle": "call(304, 0, 0, 0)",
    "pidfd": "os.pidfd_open(1)",
    "kexec": "call(246, 0, 0, 0, 0)",
    "reboot": "call(169, 0xfee1dead, 672274793, 0, 0)",
    "sethostname": "socket.sethostname('x')",
    "settime": "__import__('time').clock_settime(0, 1)",
    "swapon": "call(167, b'/x', 0)",
    "module": "call(175, 0, 0, 0)",
    "x32 table": "call(0x40000000 + 57)",
    "clone": "call(56, 17, 0, 0, 0, 0)",
    "clone3": "call(435, 0, 0)",
    "execveat": "call(322, -100, b'/usr/bin/true', 0, 0, 0)",
    "a file over its limit": "fill('/tmp/big', 17)",
    "more files than there is room": "[fill(f'/tmp/{n}', 15) for n in range(6)]",
    "descriptors": "[open('/guest.py') for _ in range(70)]",
}
HELP = """
import ctypes, os, resource, signal, socket
CANARY = {canary!r}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    if os.uname().machine != "x86_64":
        raise OSError("another table")
    if libc.syscall(number, *arguments) == -1:
        raise OSError(ctypes.get_errno(), "refused")
def fill(path, megabytes):
    with open(path, "wb") as file:
        for _ in range(megabytes):
            file.write(bytes(1 << 20))
def f(code):
    try:
        eval(code)
    except (OSError, ValueError, AttributeError, ZeroDivisionError) as error:
        return "refused"
    return "done"
"""


@pytest.mark.row("E2")
def test_what_reaches_out_is_refused_by_the_kernel(sandbox: Sandbox, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("mine")
    check = f"tried = {list(TRIES.items())!r}\n    assert [name for name, code in tried if candidate(code) != 'refused'] == []"
    code = HELP.format(canary=str(canary))
    told = sandbox.run(Trial((code,), "f", "", f"def check(candidate):\n    {check}\n"))
    if not told.passed:
        slips = [
            name
            for name, what in TRIES.items()
            if not put(sandbox, code, f"assert candidate({what!r}) == 'refused'").passed
        ]
        raise AssertionError(slips)
    assert canary.read_text() == "mine"


BOMBS = {
    "a loop": "while True: pass",
    "a loop in the function": "def f():\n  while True: pass",
    "a loop that catches": "def f():\n  while True:\n    try:\n      while True: pass\n    except BaseException: pass",
    "sleep": "import time\ndef f(): time.sleep(99)",
    "forks": "import os\ndef f():\n  while True:\n    try: os.fork()\n    except OSError: pass",
    "threads": "import threading, time\ndef f():\n  while True: threading.Thread(target=time.sleep, args=(99,)).start()",
    "memory": "def f():\n  x = []\n  while True: x.append(bytearray(1 << 20))",
    "a huge number": "def f(): return 9 ** 9 ** 9",
    "output": "def f():\n  while True: print('x' * 9999)",
    "output to every descriptor": "import os\ndef f():\n  while True:\n    for d in range(64):\n      try: os.write(d, b'x' * 9999)\n      except OSError: pass",
    "a huge reply": "def f(): return 'x' * (1 << 28)",
    "ignores signals": "import signal\nfor n in (1, 2, 3, 15, 24): signal.signal(n, signal.SIG_IGN)\nwhile True: pass",
    "stops itself": "import os, signal\ndef f(): os.kill(os.getpid(), signal.SIGSTOP)",
    "deep recursion": "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(): return f()",
}  # fmt: skip


@pytest.mark.row("E1")
@pytest.mark.parametrize("code", BOMBS.values(), ids=BOMBS)
def test_a_bomb_ends_in_time_and_leaves_nothing(sandbox: Sandbox, code: str, record_property: object) -> None:
    before, started = survivors(), time.monotonic()
    assert not put(sandbox, code).passed
    assert time.monotonic() - started < 10 * sandbox.seconds  # a hang guard
    assert survivors() <= before


@pytest.mark.row("E1")
def test_a_flood_from_the_test_itself_is_cut(sandbox: Sandbox) -> None:
    flood = sandbox.run(Trial(("def f(): return 1",), "f", "", "def check(c):\n  while True: print('x' * 9999)"))
    assert not flood.passed


def survivors() -> set[str]:
    """Numbers of processes that run a guest of ours, or of nobody any more."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            if b"/guest.py" in words and (parent == os.getpid() or parent == 1):
                found.add(entry.name)
    return found


@pytest.mark.row("E2")
def test_without_bubblewrap_or_on_another_machine_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingError, match="no sandbox here"):
        Sandbox(bwrap="no-such-program")
    monkeypatch.setattr(seccomp.platform, "machine", lambda: "vax")
    with pytest.raises(MissingError, match="no sandbox here"):
        Sandbox(bwrap=sys.executable)


@pytest.mark.row("E2")
@pytest.mark.parametrize("what", ["does nothing", "keeps nothing in"])
def test_a_sandbox_that_does_not_hold_is_not_used(tmp_path: Path, what: str) -> None:
    """A program in bubblewrap's place that fails, and one that runs what it is told without any walls."""
    fake = tmp_path / "bwrap"
    run_it = 'while [ "$1" != "--" ]; do shift; done; shift; exec "$@"'
    guest = f'exec {sys.executable} -I -S -B {Path(seccomp.__file__).parent / "guest.py"} "$6" "$7" "$8"'
    script = "exit 1" if what == "does nothing" else run_it.replace('exec "$@"', guest)
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    with pytest.raises(MissingError, match="the sandbox does not work here"):
        Sandbox(seconds=1.0, bwrap=str(fake))


def test_code_is_run_only_with_consent() -> None:
    with pytest.raises(UsageError, match="runs code that the model writes"):
        require_consent(False)
    require_consent(True)


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="no bubblewrap here")
@pytest.mark.row("E1")
def test_a_parent_that_is_killed_takes_its_sandboxes_with_it(tmp_path: Path) -> None:
    code = (
        "from picollm.evals.sandbox import Sandbox, Trial\n"
        "print('ready', flush=True)\n"
        "Sandbox(60.0).run(Trial(('while True: pass',), 'f', '', 'def check(c): c()'))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"ready\n"
    for _ in range(600):
        if children(parent.pid):
            break
        time.sleep(0.05)
    guests = children(parent.pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert guests
    for _ in range(600):
        if not any(Path(f"/proc/{guest}").exists() for guest in guests):
            return
        time.sleep(0.05)
    raise AssertionError("a sandbox outlived its parent")


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in listed.read_text().split()] if listed.exists() else []
