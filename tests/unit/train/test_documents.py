"""Packed conversations learn as if each were alone, and nothing to learn is nothing, not NaN."""

import pytest
import torch

from picollm.conversation import Rendered
from picollm.loader.dialogs import Dialogs
from picollm.model.config import shape
from picollm.model.gpt import GPT
from picollm.model.init import build

V, T = 61, 32


@pytest.fixture(scope="module")
def model() -> GPT:
    made = build(shape(2, V, T, "SSSL"), seed=3, device="cpu")
    noise = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(torch.randn(weight.shape, generator=noise) * 0.2)
    return made


def conversations() -> list[Rendered]:
    chance = torch.Generator().manual_seed(9)
    made = []
    for length in (5, 9, 17, 4, 4, 11, 33, 2, 8):
        ids = torch.randint(1, V, (length,), generator=chance).tolist()
        made.append(Rendered((0, *ids[1:]), tuple(int(at >= length // 2) for at in range(length))))
    return made


@pytest.mark.row("K45")
def test_a_packed_row_costs_what_its_conversations_cost_alone(model: GPT) -> None:
    def cost(chats: list[Rendered]) -> float:
        rows = Dialogs(chats, seq_len=T, batch_size=2, rows_per_step=4, bos=0, epochs=1)
        total = 0.0
        while True:
            try:
                batches = rows.next_step()
            except StopIteration:
                return total
            with torch.no_grad():
                total += sum(float(model.loss_sum(one.inputs, one.targets, one.documents)) for one in batches)

    chats = conversations()
    assert cost(chats) == pytest.approx(sum(cost([chat]) for chat in chats), rel=1e-5)


@pytest.mark.row("K45")
@pytest.mark.parametrize("length", [3, T + 40])
def test_nothing_to_learn_gives_no_loss_and_no_gradient(model: GPT, length: int) -> None:
    silent = Rendered((0, *range(1, length)) if length < V else (0,) * length, (0,) * length)
    [batch] = Dialogs([silent], seq_len=T, batch_size=2, rows_per_step=2, bos=0, epochs=1).next_step()
    loss = model.loss_sum(batch.inputs, batch.targets, batch.documents)
    loss.backward()
    assert float(loss.detach()) == 0
    for weight in model.parameters():
        assert weight.grad is None or not weight.grad.any()
    model.zero_grad()
