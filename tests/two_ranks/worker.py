"""What each rank runs under torchrun: a small training in a folder, with the options of the test as JSON.

python worker.py '{"folder": …, "plan": {…}, "stop_after": …, "die": {"rank": 1, "step": 5}}'
"""

import hashlib
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from tests.unit.train.small import Rows, small_parts, small_plan, train_small

from picollm.plan.request import Interval
from picollm.runtime import durable
from picollm.runtime.dist import World


class Deadly(Rows):
    """Kills its process, once in all restarts, when it is asked for the rows of a step."""

    step = -1

    def next_step(self) -> list:  # type: ignore[type-arg]
        first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        if first and self.rows == self.step * self.plan.rows_per_step:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().next_step()


def main(said: dict) -> None:  # type: ignore[type-arg]
    folder = Path(said["folder"])
    plan = small_plan(**said.get("plan", {}))
    if cap := said.get("stop_after"):
        plan = replace(plan, stop_after=Interval(cap, "steps"))
    with World.open("cpu") as world:
        parts = small_parts(plan, folder, world)
        die = said.get("die")
        if die and die["rank"] == world.rank:
            deadly = Deadly(plan, world)
            deadly.step = die["step"]
            parts.stream = deadly
        train_small(plan, folder, parts)
        digest = hashlib.sha256()
        for parameter in parts.model.parameters():
            digest.update(parameter.detach().numpy().tobytes())
        digests = world.gather(digest.hexdigest())
        if world.rank == 0:
            durable.write_json(folder / "digests.json", digests)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
