"""One line that says how far a job is: rewritten in place on a terminal, else a plain line now and then."""

import os
import shutil
import sys
import time

SECONDS_BETWEEN_PLAIN_LINES = 10.0


class LiveLine:
    """Writes to stderr. A broken pipe ends the talking, not the job."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self.next_plain = time.monotonic() + SECONDS_BETWEEN_PLAIN_LINES
        self.open = False

    def show(self, text: str) -> None:
        """Replace the line by `text`."""
        if self.terminal:
            self._write("\r\x1b[K" + text[: shutil.get_terminal_size().columns - 1])
            self.open = True
        elif time.monotonic() >= self.next_plain:
            self.next_plain = time.monotonic() + SECONDS_BETWEEN_PLAIN_LINES
            self._write(text + "\n")

    def close(self) -> None:
        """Leave the terminal at the start of an empty line."""
        if self.open:
            self._write("\r\x1b[K")
            self.open = False

    def _write(self, text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except (OSError, ValueError):
            self.terminal, self.next_plain = False, float("inf")
