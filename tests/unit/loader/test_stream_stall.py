"""A disk that stands still: a warning that names the file and the byte, then the end of the wait, never a hang."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.campaigns.crashpoints import why_not

STANDS_STILL = "inject=pread64:delay_enter=600s:when=20+"
READ = """
import sys, time, warnings
from picollm.errors import PicoError
from picollm.loader.stream import Stream

stream = Stream(sys.argv[1], seq_len=8, batch_size=2, rows_per_step=2, io="pread", threads=1, patience=(0.2, 1.0))
began = time.monotonic()
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    try:
        while True:
            stream.next_step()
    except PicoError as error:
        print(error.message)
    print(len(seen), seen[0].category.__name__, seen[0].message)
assert time.monotonic() - began < 30
stream.close()
"""


@pytest.mark.slow
@pytest.mark.row("L9")
def test_a_read_that_never_comes_back_is_named_and_given_up(shards: Path) -> None:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    first = shards / "train_000000.bin"
    under = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", str(first), "-e", "trace=pread64", "-e", STANDS_STILL]
    with subprocess.Popen(
        [*under, sys.executable, "-c", READ, str(shards)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(2)]
        os.killpg(child.pid, 9)  # its thread is still in that read
        assert child.stderr is not None
        errors = child.stderr.read()
    assert "no answer for 1." in lines[0], errors
    assert str(first) in lines[0]
    assert "at byte " in lines[0]
    assert lines[1].startswith("1 RuntimeWarning ")
    assert "no answer for 0." in lines[1]
