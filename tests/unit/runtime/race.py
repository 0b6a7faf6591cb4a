"""`python race.py FOLDER ROUNDS`: four processes want one lock at the same moment, round after round. Prints JSON.

In every round one must get it, and the others must name that one. Every third winner is killed, not let go.
"""

import json
import os
import signal
import sys
from pathlib import Path

from picollm.errors import BusyError
from picollm.runtime import durable

RACERS = 4


def race(folder: Path, kill: bool) -> tuple[list[int], list[int]]:
    """Processes that got the lock; the processes that the others named."""
    go, start = os.pipe()
    hold, let_go = os.pipe()
    hear, tell = os.pipe()
    racers = []
    for _ in range(RACERS):
        child = os.fork()
        if child == 0:
            os.close(start)
            os.close(let_go)
            os.read(go, 1)  # until all are there
            try:
                with durable.lock(folder):
                    os.write(tell, b"W%d\n" % os.getpid())
                    os.read(hold, 1)
            except BusyError as error:
                os.write(tell, b"L%s\n" % error.message.rsplit(" ", 1)[1].encode())
            os._exit(0)
        racers.append(child)
    os.close(tell)
    os.close(start)
    said = b""
    while said.count(b"\n") < RACERS and (more := os.read(hear, 4096)):
        said += more
    lines = said.decode().split()
    won = [int(line[1:]) for line in lines if line[0] == "W"]
    if kill:
        for winner in won:
            os.kill(winner, signal.SIGKILL)
    for descriptor in (let_go, go, hold, hear):
        os.close(descriptor)
    for racer in racers:
        os.waitpid(racer, 0)
    return won, [int(line[1:]) if line[1:].isdecimal() else -1 for line in lines if line[0] == "L"]


def main() -> None:
    folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
    one, named, wrongly = 0, 0, 0
    for number in range(rounds):
        won, told = race(folder, kill=number % 3 == 0)
        with durable.lock(folder):  # free at once, whatever became of the winner
            one += len(won) == 1
        right = sum(pid in won for pid in told)
        named, wrongly = named + right, wrongly + len(told) - right
    print(json.dumps({"rounds": rounds, "one winner": one, "named": named, "named wrongly": wrongly}))


if __name__ == "__main__":
    main()
