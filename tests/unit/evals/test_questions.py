"""Questions in batches, their prefixes read once, equal one end at a time."""

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.alive import alive
from tests.reference.questions import score_plainly

from picollm.evals.exam import Result, mean_centred
from picollm.evals.questions import Question, Score, answer, batches, common_prefix, common_suffix, right, score
from picollm.model.gpt import GPT

V, T = 61, 24


@pytest.fixture(scope="module", params=["L", "SSSL"])
def model(request: pytest.FixtureRequest) -> GPT:
    return alive(V, T, request.param)


ids = st.integers(0, V - 1)


@st.composite
def questions(draw: st.DrawFn) -> Question:
    """Prefixes from nothing to more than the context, one to four ends."""
    prefix = tuple(draw(st.lists(ids, max_size=T + 4)))
    ends = tuple(tuple(draw(st.lists(ids, min_size=2, max_size=8))) for _ in range(draw(st.integers(1, 4))))
    scored = tuple(draw(st.integers(1, len(end) - (not prefix))) for end in ends)
    return Question(prefix, ends, scored, draw(st.integers(0, len(ends) - 1)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(asked=st.lists(questions(), min_size=1, max_size=6), batch_tokens=st.sampled_from([1, 64, 100_000]))
def test_batches_with_shared_prefixes_say_what_one_end_at_a_time_says(
    model: GPT, asked: list[Question], batch_tokens: int
) -> None:
    found = score(model, asked, batch_tokens)
    for question, mine, plain in zip(asked, found, score_plainly(model, asked), strict=True):
        assert [s.exact for s in mine] == [s.exact for s in plain]
        assert [s.nats for s in mine] == pytest.approx([s.nats for s in plain], rel=1e-4)
        assert right(question, mine) == right(question, plain)


@given(asked=st.lists(questions(), max_size=20), batch_tokens=st.integers(1, 400))
def test_every_question_is_in_one_batch_and_no_batch_is_too_large(asked: list[Question], batch_tokens: int) -> None:
    made = list(batches(asked, batch_tokens))
    assert sorted(index for batch in made for index in batch) == list(range(len(asked)))
    for batch in made:
        rows = sum(len(asked[i].ends) for i in batch)
        assert len(batch) == 1 or rows * max(asked[i].longest for i in batch) <= batch_tokens


def test_what_a_question_shares_is_found_from_both_sides() -> None:
    assert common_prefix([[1, 2, 3], [1, 2], [1, 2, 9]]) == 2
    assert common_prefix([[1, 2]]) == 2
    assert common_prefix([[1], [2]]) == 0
    assert common_suffix([[1, 2, 3], [9, 2, 3]]) == 2


def test_equal_ends_give_the_first() -> None:
    assert answer([Score(2.0, False), Score(1.0, False), Score(1.0, True)]) == 1


def test_a_single_end_must_be_the_models_own_words() -> None:
    alone = Question((1,), ((2,),), (1,))
    assert right(alone, [Score(0.1, True)])
    assert not right(alone, [Score(0.1, False)])


def test_centred_accuracy_is_nought_by_chance_and_one_for_all_right() -> None:
    by_chance = Result("a", 25, 100, 400, 0.25)
    perfect = Result("b", 10, 10, 10, 0.5)
    below = Result("c", 0, 10, 10, 0.5)
    assert by_chance.centred == 0.0
    assert perfect.centred == 1.0
    assert perfect.error == 0.0
    assert below.centred == -1.0
    assert by_chance.error == pytest.approx(math.sqrt(0.25 * 0.75 / 100))
    mean, error = mean_centred([by_chance, perfect])
    assert mean == 0.5
    assert error == pytest.approx(by_chance.error / 0.75 / 2)
