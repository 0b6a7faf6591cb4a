"""Sampling against its plain twin, and what a seed promises."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.reference import sampling as plain

from picollm.errors import PicoError, UsageError
from picollm.infer.sample import GREEDY, Sampling, distribution, draw, likeliest, log_probability, sample, uniform

rules = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 0.8, 1.0, 2.0]),
    top_k=st.one_of(st.none(), st.integers(1, 12)),
    top_p=st.sampled_from([0.05, 0.31, 0.77, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.013, 0.21, 1.0]),
    seed=st.integers(0, 2**63 - 1),
)
rows = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=10)


@given(rows, rules)
def test_what_is_drawn_from_equals_the_plain_twin(row: list[float], how: Sampling) -> None:
    fast = distribution(torch.tensor(row), how)
    slow = plain.distribution(row, how.temperature, how.top_k, how.top_p, how.min_p)
    assert {token for token, p in enumerate(fast.tolist()) if p > 1e-12} <= set(slow)
    for token, p in enumerate(fast.tolist()):
        assert math.isclose(p, slow.get(token, 0.0), rel_tol=1e-9, abs_tol=1e-12)


@given(rows, rules, st.integers(0, 4096))
def test_a_token_that_a_rule_cut_is_never_drawn(row: list[float], how: Sampling, position: int) -> None:
    logits = torch.tensor(row)
    token = sample(logits, how, position)
    assert distribution(logits, how)[token] > 0
    assert token == sample(logits, how, position)


@pytest.mark.parametrize("noise", [0.0, 0.5, 1 - 2**-53])
def test_a_token_without_probability_is_not_drawn_at_the_edges(noise: float) -> None:
    assert draw(torch.tensor([0.0, 0.3, 0.7, 0.0], dtype=torch.float64), noise) in (1, 2)


def test_the_lowest_id_wins_a_tie_at_temperature_zero() -> None:
    assert sample(torch.tensor([1.0, 3.0, 3.0, 0.0]), GREEDY, 0) == 1


def test_columns_of_minus_infinity_never_come() -> None:
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf])
    assert {sample(logits, Sampling(temperature=2.0, seed=seed), 0) for seed in range(50)} == {1}


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([0.5, 0.2, 0.3]).log()
    counts = Counter(sample(logits, Sampling(temperature=1.0, seed=3), position) for position in range(2000))
    for token, p in enumerate((0.5, 0.2, 0.3)):
        assert abs(counts[token] / 2000 - p) < 4 * math.sqrt(p * (1 - p) / 2000)


def test_noise_depends_on_seed_and_position_and_is_fixed_for_ever() -> None:
    assert uniform(1, 2) != uniform(2, 1)
    assert [round(uniform(0, position), 6) for position in range(3)] == [0.657518, 0.156302, 0.709355]
    assert all(0 <= uniform(seed, 0) < 1 for seed in range(100))


def test_log_probabilities_are_the_models_own() -> None:
    logits = torch.tensor([0.5, 0.2, 0.3]).log() + 7
    assert math.isclose(log_probability(logits, 1), math.log(0.2), rel_tol=1e-6)
    top = likeliest(logits, 2)
    assert [token for token, _ in top] == [0, 2]
    assert math.isclose(top[1][1], math.log(0.3), rel_tol=1e-6)


@pytest.mark.row("W13")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_numbers_are_an_error(bad: float) -> None:
    with pytest.raises(PicoError, match="not numbers"):
        sample(torch.tensor([0.0, bad]), Sampling(), 0)


@pytest.mark.parametrize(
    "said",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": 2.1},
        {"top_k": 0},
        {"top_p": 0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"seed": -1},
        {"seed": 2**63},
    ],
)
def test_a_rule_out_of_range_is_refused(said: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Sampling(**said)  # type: ignore[arg-type]
