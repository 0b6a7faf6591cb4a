"""The same model gives the same scores: again, in any batch, in any order of the questions."""

import random

import pytest
import torch
from tests.alive import alive

from picollm.evals.questions import Question, right, score


@pytest.mark.row("E5")
def test_a_score_depends_neither_on_the_batch_nor_on_the_order_nor_on_the_day() -> None:
    model = alive(61, 48, "SSSL")
    draw = torch.Generator().manual_seed(2)

    def ids(most: int) -> tuple[int, ...]:
        length = int(torch.randint(1, most, (1,), generator=draw)) + 1
        return tuple(torch.randint(61, (length,), generator=draw).tolist())

    asked = [Question(ids(30), (ids(5), ids(5), ids(5)), (1, 1, 1), n % 3) for n in range(60)]
    first = [right(question, scores) for question, scores in zip(asked, score(model, asked), strict=True)]
    assert 0 < sum(first) < len(first)
    for repeat in range(20):
        order = random.Random(repeat).sample(range(len(asked)), len(asked))
        batch_tokens = (1, 400, 8192)[repeat % 3]
        scores = score(model, [asked[n] for n in order], batch_tokens)
        found = {n: right(asked[n], one) for n, one in zip(order, scores, strict=True)}
        assert [found[n] for n in range(len(asked))] == first
