"""One token at a time through the cache equals the naive way; ends, limits and seeds."""

import math

import pytest
import torch
from tests.alive import alive

from picollm.errors import UsageError
from picollm.infer.engine import Engine, Finish, Request
from picollm.infer.sample import GREEDY, Sampling, likeliest, log_probability, sample
from picollm.model.gpt import GPT

V, T = 61, 48


@pytest.fixture(scope="module", params=["L", "SSSL"])
def model(request: pytest.FixtureRequest) -> GPT:
    return alive(V, T, request.param)


def naive(model: GPT, request: Request, count: int) -> list[int]:
    """The whole sequence anew for every token."""
    ids = list(request.prompt)
    with torch.no_grad():
        for _ in range(count):
            logits = model.logits(torch.tensor([ids], dtype=torch.int32))[0, -1, :V].float()
            ids.append(sample(logits, request.how, len(ids)))
    return ids[len(request.prompt) :]


@pytest.mark.parametrize("how", [GREEDY, Sampling(1.0, seed=4), Sampling(0.7, top_k=9, top_p=0.9, min_p=0.02, seed=8)])
@pytest.mark.parametrize("prompt", [(1,), (1, 2, 3, 4, 5), tuple(range(30))])
def test_decoding_equals_the_naive_way_token_by_token(model: GPT, how: Sampling, prompt: tuple[int, ...]) -> None:
    count = min(40, T - len(prompt))
    request = Request(prompt, how, count)
    generation = Engine(model).start(request)
    assert [token.id for token in generation] == naive(model, request, count)


def test_rows_decoded_together_say_what_each_says_alone(model: GPT) -> None:
    engine = Engine(model)
    prompts = [(1,), (4, 5, 6), tuple(range(20)), (9, 9), tuple(range(T - 2))]
    stops = frozenset({7, 8})
    requests = [Request(prompt, Sampling(1.0, seed=n), 4 + 6 * n, stops) for n, prompt in enumerate(prompts)]
    together = engine.complete(requests)
    for request, answer in zip(requests, together, strict=True):
        alone = engine.start(request)
        assert [token.id for token in alone] == [token.id for token in answer.tokens]
        assert alone.finish is answer.finish


def test_log_probabilities_are_those_of_the_full_forward(model: GPT) -> None:
    request = Request((1, 2), Sampling(1.0, seed=1), 8, alternatives=3)
    tokens = list(Engine(model).start(request))
    ids = [1, 2, *(token.id for token in tokens)]
    with torch.no_grad():
        logits = model.logits(torch.tensor([ids], dtype=torch.int32))[0, :, :V].float()
    for at, token in enumerate(tokens):
        assert math.isclose(token.log_probability, log_probability(logits[1 + at], token.id), abs_tol=1e-4)
        assert [t for t, _ in token.alternatives] == [t for t, _ in likeliest(logits[1 + at], 3)]


def test_a_stop_token_ends_the_answer_and_is_not_part_of_it(model: GPT) -> None:
    engine = Engine(model)
    free = [token.id for token in engine.start(Request((7,), Sampling(1.0, seed=2), 20))]
    stop = free[5]
    generation = engine.start(Request((7,), Sampling(1.0, seed=2), 20, stops=frozenset({stop})))
    assert [token.id for token in generation] == free[: free.index(stop)]
    assert generation.finish is Finish.STOP
    assert list(generation) == []


def test_the_answer_ends_with_the_tokens_asked_for_or_with_the_context(model: GPT) -> None:
    engine = Engine(model)
    short = engine.start(Request((1, 2), GREEDY, 3))
    assert len(list(short)) == 3
    assert short.finish is Finish.LENGTH
    full = engine.start(Request((1, 2), GREEDY, 10_000))
    assert len(list(full)) == T - 2
    assert full.finish is Finish.CONTEXT
    assert len(list(engine.start(Request((1,) * (T - 1), GREEDY)))) == 1


@pytest.mark.parametrize("prompt", [(), (1,) * T, (V,), (-1,)])
def test_a_prompt_that_cannot_be_continued_is_refused(model: GPT, prompt: tuple[int, ...]) -> None:
    with pytest.raises(UsageError):
        Engine(model).start(Request(prompt, GREEDY))


def test_the_same_seed_gives_the_same_tokens_whatever_ran_before(model: GPT) -> None:
    engine = Engine(model)
    request = Request((3, 1), Sampling(1.0, seed=11), 20)
    first = [token.id for token in engine.start(request)]
    torch.manual_seed(99)
    list(engine.start(Request((5,), Sampling(1.0, seed=12), 7)))
    assert [token.id for token in engine.start(request)] == first
    assert [token.id for token in engine.start(Request((3, 1), Sampling(1.0, seed=13), 20))] != first
