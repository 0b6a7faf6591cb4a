"""Named places where a test may kill the process or make a system call fail.

`PICOLLM_FAIL="ckpt.manifest_synced=kill@3;ckpt.synced=EIO@1"`: at the third passage kill -9 this process, at the
first raise EIO; `term` sends this process SIGTERM, as a scheduler would. Without the variable `reach` does nothing.
Only for what strace cannot see (RELIABILITY 4.1).
"""

import errno
import os
import signal
from collections import Counter

VARIABLE = "PICOLLM_FAIL"
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM}
passages: Counter[str] = Counter()


def reach(name: str) -> None:
    """Do what `PICOLLM_FAIL` asks for at this passage of `name`."""
    said = os.environ.get(VARIABLE)
    if not said:
        return
    passages[name] += 1
    for rule in said.split(";"):
        place, _, action = rule.partition("=")
        what, _, when = action.partition("@")
        if place == name and int(when or 1) == passages[name]:
            act(name, what)


def act(name: str, what: str) -> None:
    if what in SIGNALS:
        os.kill(os.getpid(), SIGNALS[what])
        return
    raise OSError(getattr(errno, what), f"fail point {name}")
