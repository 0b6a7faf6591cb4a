"""Scoring one end of one question at a time, the whole text anew: slow, and obviously what is meant."""

from collections.abc import Sequence

import torch

from picollm.evals.questions import Question, Score
from picollm.model.gpt import GPT


def score_plainly(model: GPT, questions: Sequence[Question]) -> list[list[Score]]:
    found = []
    for asked in questions:
        texts = [(*asked.prefix, *end) for end in asked.ends]
        found.append([score_end(model, text, count) for text, count in zip(texts, asked.scored, strict=True)])
    return found


def score_end(model: GPT, text: tuple[int, ...], count: int) -> Score:
    ids = text[-model.config.seq_len :]
    count = min(count, len(ids) - 1)
    with torch.no_grad():
        logits = model.logits(torch.tensor([ids]))[0].double()
    nats, exact = 0.0, True
    for place in range(len(ids) - count, len(ids)):
        nats -= float(torch.log_softmax(logits[place - 1], -1)[ids[place]])
        exact = exact and int(logits[place - 1].argmax()) == ids[place]
    return Score(nats / count, exact)
