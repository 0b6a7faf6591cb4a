"""What each rank runs under torchrun: a small training in a folder, with the options of the test as JSON.

python worker.py '{"folder": …, "plan": {…}, "stop_after": …, "fault": {"rank": 1, "step": 5, "what": "SIGKILL"}}'
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


class Faulty(Rows):
    """Does something to its process, once in all restarts, when it is asked for the rows of a step.

    what: `SIGKILL`, `SIGSTOP` and other signals, or `nan`: the gradient of that step on this rank.
    """

    step = -1
    what = "SIGKILL"
    poisoned = False

    def next_step(self) -> list:  # type: ignore[type-arg]
        first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        here = first and self.rows == self.step * self.plan.rows_per_step
        self.poisoned = here and self.what == "nan"
        if here and self.what != "nan":
            os.kill(os.getpid(), signal.Signals[self.what])
        return super().next_step()


def main(said: dict) -> None:  # type: ignore[type-arg]
    folder = Path(said["folder"])
    plan = small_plan(**said.get("plan", {}))
    if cap := said.get("stop_after"):
        plan = replace(plan, stop_after=Interval(cap, "steps"))
    with World.open("cpu") as world:
        parts = small_parts(plan, folder, world)
        fault = said.get("fault")
        if fault and fault["rank"] == world.rank:
            rows = parts.stream = Faulty(plan, world)
            rows.step, rows.what = fault["step"], fault["what"]
            parts.model.lm_head.weight.register_hook(lambda grad: grad * float("nan") if rows.poisoned else grad)
        train_small(plan, folder, parts)
        digest = hashlib.sha256()
        for parameter in parts.model.parameters():
            digest.update(parameter.detach().numpy().tobytes())
        digests = world.gather(digest.hexdigest())
        if world.rank == 0:
            durable.write_json(folder / "digests.json", digests)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
