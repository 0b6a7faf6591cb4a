"""Questions that a language model answers by what it finds likely, and how they are scored in batches.

A question is a text with several ends. The model is asked how surprising it finds each end, and the least surprising
one is its answer; a question with a single end asks whether the model would have written exactly that.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from picollm.model.cache import Cache
from picollm.model.gpt import GPT

BATCH_TOKENS = 8192  # tokens of ends run together, padding included
HEAD_ROWS = 512  # tokens whose logits exist at a time


@dataclass(frozen=True)
class Question:
    """`prefix` + each of `ends` are ids from the document's start; of each end the last `scored` tokens count.

    gold: the index of the right end.
    """

    prefix: tuple[int, ...]
    ends: tuple[tuple[int, ...], ...]
    scored: tuple[int, ...]
    gold: int = 0

    def __post_init__(self) -> None:
        assert len(self.ends) == len(self.scored) > self.gold >= 0
        assert all(0 < n <= len(end) for n, end in zip(self.scored, self.ends, strict=True))
        assert self.prefix or all(n < len(end) for n, end in zip(self.scored, self.ends, strict=True))

    @property
    def longest(self) -> int:
        return len(self.prefix) + max(map(len, self.ends))

    def fitted(self, context: int) -> "Question":
        """The same question for a model that sees `context` tokens: of what is too long the last ones stay."""
        if self.longest <= context and len(self.ends) > 1 and len(self.prefix) > 1:
            return Question(
                self.prefix[:-1], tuple((self.prefix[-1], *end) for end in self.ends), self.scored, self.gold
            )
        ends = tuple((*self.prefix, *end)[-context:] for end in self.ends)
        scored = tuple(min(n, len(end) - 1) for n, end in zip(self.scored, ends, strict=True))
        return Question((), ends, scored, self.gold)


class Score(NamedTuple):
    """What a model makes of one end: mean nats of its scored tokens, and whether each was its first choice."""

    nats: float
    exact: bool


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """How many ids all rows begin with.

    >>> common_prefix([[1, 2, 3], [1, 2, 4, 5]])
    2
    """
    for place, ids in enumerate(zip(*rows, strict=False)):
        if len(set(ids)) > 1:
            return place
    return min(map(len, rows))


def common_suffix(rows: Sequence[Sequence[int]]) -> int:
    """How many ids all rows end with."""
    return common_prefix([row[::-1] for row in rows])


def answer(scores: Sequence[Score]) -> int:
    """The end with the lowest mean; the first among equals."""
    return min(range(len(scores)), key=lambda end: (scores[end].nats, end))


def right(question: Question, scores: Sequence[Score]) -> bool:
    """A single end must be what the model would have written; of several, gold the likeliest."""
    return scores[0].exact if len(scores) == 1 else answer(scores) == question.gold


@torch.inference_mode()
def score(model: GPT, questions: Sequence[Question], batch_tokens: int = BATCH_TOKENS) -> list[list[Score]]:
    """The scores of every question's ends, in order. What a question's ends share is read once.

    Questions of like length run together, so the result is that of one at a time but for the order of float sums.
    """
    fitted = [question.fitted(model.config.seq_len) for question in questions]
    found: list[list[Score]] = [[] for _ in fitted]
    for batch in batches(fitted, batch_tokens):
        for index, scores in zip(batch, scored_together(model, [fitted[i] for i in batch]), strict=True):
            found[index] = scores
    return found


def batches(questions: Sequence[Question], batch_tokens: int) -> Iterator[list[int]]:
    """Indices to run together: like lengths, and at most `batch_tokens` with padding, but at least one question."""
    order = sorted(range(len(questions)), key=lambda i: (len(questions[i].prefix), questions[i].longest, i))
    batch: list[int] = []
    rows = widest = 0
    for index in order:
        question = questions[index]
        more = rows + len(question.ends)
        wider = max(widest, question.longest)
        if batch and more * wider > batch_tokens:
            yield batch
            batch, more, wider = [], len(question.ends), question.longest
        batch.append(index)
        rows, widest = more, wider
    if batch:
        yield batch


def scored_together(model: GPT, questions: Sequence[Question]) -> list[list[Score]]:
    """One batch: the prefixes side by side, then every end after a copy of its own prefix."""
    device = model.embed.weight.device
    ends = [end for question in questions for end in question.ends]
    counts = [count for question in questions for count in question.scored]
    cache = read_prefixes(model, questions, max(map(len, ends)))
    hidden = model.hidden(padded(ends, device), cache=cache)
    rows = [row for row, count in enumerate(counts) for _ in range(count)]
    places = [place for end, count in zip(ends, counts, strict=True) for place in range(len(end) - count, len(end))]
    targets = torch.tensor([ends[row][place] for row, place in zip(rows, places, strict=True)], device=device)
    before = torch.tensor(places, device=device) - 1
    nats, hit = surprise(model, hidden[torch.tensor(rows, device=device), before], targets)
    per_end = [
        Score(float(part.mean()), bool(hits.all()))
        for part, hits in zip(torch.split(nats, counts), torch.split(hit, counts), strict=True)
    ]
    taken = iter(per_end)
    return [[next(taken) for _ in question.ends] for question in questions]


def read_prefixes(model: GPT, questions: Sequence[Question], room: int) -> Cache | None:
    """A cache with a row for each end, filled with its question's prefix; None where no prefix is shared."""
    prefixes = [question.prefix for question in questions]
    widest = max(map(len, prefixes))
    if not widest:
        return None
    device = model.embed.weight.device
    cache = Cache(model.config, len(prefixes), widest, model.compute_dtype, device)
    model.hidden(padded(prefixes, device), cache=cache, counts=[len(prefix) for prefix in prefixes])
    return cache.copied([row for row, question in enumerate(questions) for _ in question.ends], widest + room)


def surprise(model: GPT, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """hidden (n, C), targets (n,) → nats (n,) float64, and whether each target is the likeliest token; on the host."""
    nats, hits = [], []
    for h, wanted in zip(torch.split(hidden, HEAD_ROWS), torch.split(targets, HEAD_ROWS), strict=True):
        logits = model.head(h)
        nats.append((logits.logsumexp(-1) - logits.gather(1, wanted[:, None])[:, 0]).double().cpu())
        hits.append((logits.argmax(-1) == wanted).cpu())
    return torch.cat(nats), torch.cat(hits)


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """(rows, longest) ids, zeros on the right: a causal model does not see them from where it is asked."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *(0,) * (width - len(row))] for row in rows], device=device)
