"""Answers that join and leave a batch between steps say what each says alone; a ring of the last keys is enough."""

import pytest
import torch
from tests.alive import alive
from tests.unit.infer.test_engine import naive

from picollm.errors import PicoError
from picollm.infer.engine import Answer, Batch, Engine, Finish, Request
from picollm.infer.sample import GREEDY, Sampling
from picollm.model.cache import Cache
from picollm.model.config import shape
from picollm.model.gpt import GPT
from picollm.model.init import build

V, T, W = 61, 320, 128  # windows come in blocks of 128: the ring is smaller than the context only past that


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(alive(V, T, "SSSL"))


def request(seed: int, length: int, most: int) -> Request:
    prompt = torch.randint(V, (length,), generator=torch.Generator().manual_seed(seed))
    return Request(tuple(prompt.tolist()), Sampling(1.0, seed=seed), most)


def test_windowed_layers_keep_a_ring_and_no_more(engine: Engine) -> None:
    cache = Cache(engine.config, 1, T)
    assert engine.config.windows == (W, None)
    assert cache.sizes == [W + 1, T]


@pytest.mark.parametrize(("length", "most"), [(1, 40), (W - 2, 8), (W, 8), (W + 1, 8), (2 * W, 40), (T - 3, 3)])
def test_a_ring_says_what_the_whole_past_says(engine: Engine, length: int, most: int) -> None:
    asked = request(7, length, most)
    assert [token.id for token in engine.start(asked)] == naive(engine.model, asked, most)


@pytest.mark.parametrize("cut", [1, 7, W, W + 1, 200])
def test_a_prompt_in_pieces_is_the_prompt_whole(engine: Engine, cut: int) -> None:
    ids = torch.tensor([request(3, T, 1).prompt])
    with torch.inference_mode():
        whole = engine.model.hidden(ids)
        cache = Cache(engine.config, 1, T)
        pieces = torch.cat([engine.model.hidden(piece, cache=cache) for piece in ids.split(cut, 1)], 1)
    torch.testing.assert_close(pieces, whole, rtol=1e-4, atol=1e-4)


def test_who_joins_and_leaves_changes_nobodys_answer(engine: Engine) -> None:
    requests = [request(seed, length, most) for seed, (length, most) in enumerate(
        [(5, 60), (140, 30), (1, 9), (300, 20), (20, 45), (129, 12), (8, 1), (60, 33)])]  # fmt: skip
    alone = [[token.id for token in engine.start(one)] for one in requests]
    waiting = [Answer(one, engine) for one in requests]
    answers = list(waiting)
    batch = Batch(engine, 3, T)
    given_up = answers[4]
    while waiting or batch.live:
        newcomers = [waiting.pop(0) for _ in range(min(batch.free, len(waiting), 2))]
        batch.join(newcomers)
        if batch.live:
            batch.step()
        if given_up in batch.live and len(given_up.tokens) > 10:
            batch.leave(given_up)
    for index, answer in enumerate(answers):
        if answer is not given_up:
            assert answer.ids == alone[index]
            assert answer.finish in (Finish.LENGTH, Finish.CONTEXT)
    assert given_up.ids == alone[4][: len(given_up.ids)]


def test_what_is_interjected_is_read_and_not_asked_for(engine: Engine) -> None:
    """After every third token of its own the model finds three that it did not write."""

    def interject(ids: list[int]) -> list[int]:
        return [11, 12, 13] if len(ids) % 6 == 3 else []

    asked = Request((1, 2, 3), GREEDY, 150, interject=interject)  # type: ignore[arg-type]
    tokens = list(engine.start(asked))
    assert len(tokens) == 150
    ids = [1, 2, 3, *(token.id for token in tokens)]
    with torch.inference_mode():
        best = engine.model.logits(torch.tensor([ids]))[0, :, :V].argmax(-1).tolist()
    for place, token in enumerate(tokens):
        if token.said:
            assert token.id == best[2 + place]
        else:
            assert place % 6 >= 3
            assert token.id == 11 + place % 3
            assert token.log_probability == 0


def test_an_interjection_never_passes_the_limit(engine: Engine) -> None:
    asked = Request((1,), GREEDY, 5, interject=lambda ids: [4] * 99)
    generation = engine.start(asked)
    assert [token.said for token in generation] == [True, False, False, False, False]
    assert generation.finish is Finish.LENGTH


def test_one_answer_without_numbers_leaves_the_others_alone(engine: Engine) -> None:
    """A model whose head says nan for one token that only one prompt holds."""
    broken = build(shape(2, V, 32, "L"), seed=1, device="cpu").eval()
    good, bad = Request((1, 2), GREEDY, 4), Request((1, 60), GREEDY, 4)
    with torch.no_grad():
        broken.embed.weight[60] = float("nan")
    healthy = [token.id for token in Engine(broken).start(good)]
    answers = [Answer(one, Engine(broken)) for one in (good, bad)]
    batch = Batch(Engine(broken), 2, 32)
    batch.join(answers)
    while batch.live:
        batch.step()
    assert answers[0].ids == healthy
    assert answers[1].error is not None
    with pytest.raises(PicoError, match="not numbers"):
        Engine(broken).complete([good, bad])


def test_a_copy_of_a_cache_goes_on_like_the_first(engine: Engine) -> None:
    model: GPT = engine.model
    ids = torch.tensor([request(1, 200, 1).prompt, request(2, 200, 1).prompt])
    more = torch.tensor([[5, 6, 7]] * 3)
    with torch.inference_mode():
        cache = Cache(model.config, 2, 200)
        model.hidden(ids, cache=cache, counts=[200, 50])
        copy = cache.copied([1, 0, 1], 250)
        found = model.hidden(more, cache=copy)
        for row, (own, length) in enumerate([(1, 50), (0, 200), (1, 50)]):
            whole = model.hidden(torch.cat((ids[own : own + 1, :length], more[:1]), 1))
            torch.testing.assert_close(found[row], whole[0, length:], rtol=1e-4, atol=1e-4)
