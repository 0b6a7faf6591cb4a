"""A base run as training leaves it: 20,000 weights, untrained, with a real tokenizer and a real checkpoint."""

from pathlib import Path

from picollm.ckpt import protocol
from picollm.model.init import build
from picollm.model.roles import roles
from picollm.optim.sharded import Optimizer
from picollm.plan.facts import DataFacts
from picollm.plan.request import TrainRequest
from picollm.plan.resolve import resolve
from picollm.runtime import durable
from picollm.runtime.dist import World
from picollm.runtime.machine import Machine
from picollm.tok.tokenizer import Tokenizer
from picollm.tok.train import train_on_texts
from picollm.train.opening import Opened, begin
from picollm.train.state import Home, Parts, contents, versions

TEXT = (
    "who are you? I am Pico, a tiny model trained on this computer a few minutes ago. what is the string, return it. "
)


class Nothing:
    """The rows of a run that never stepped."""

    def next_step(self) -> list:  # type: ignore[type-arg]
        raise StopIteration

    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None: ...

    def close(self) -> None: ...


def base_run(runs: Path, name: str = "base") -> Path:
    """The folder of a finished run of stage `base`, context 64."""
    tokenizer: Tokenizer = train_on_texts([TEXT, TEXT.upper()], 300)
    facts = DataFacts("text", "text", "f" * 64, tokenizer.fingerprint, tokenizer.vocab_size, 10**6, 20_000)
    asked = {"depth": 2, "hidden_size": 32, "head_dim": 16, "max_seq_len": 64, "num_iterations": 200,
             "total_batch_size": 512, "device_batch_size": 8, "learning_rate": 0.2, "name": name}  # fmt: skip
    plan = resolve(TrainRequest(**asked), Machine.cpu(1e10), facts).require()
    world = World()
    model = build(plan.model, plan.seed, world.device)
    parts = Parts(model, Optimizer(model, roles(model), plan.optim, world), Nothing(), world)
    run = runs / name
    run.mkdir(parents=True)
    parts.home = Home(run, tokenizer.core.to_json(), facts.fingerprint, tokenizer.fingerprint)
    parts.step = parts.updates = plan.steps
    begin(Opened(run, plan), versions())
    protocol.save(parts.home.checkpoints, contents(plan, parts), world)
    durable.write_json(run / "exit.json", {"v": 1, "code": 0, "reason": "finished"})
    return run
