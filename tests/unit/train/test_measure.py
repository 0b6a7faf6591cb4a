"""Of a horizon of time, validation gets its share before steps are counted."""

import pytest

from picollm.train.measure import EVAL_COST, LEAST_TRAINING, training_share


def test_a_long_run_pays_a_share_of_its_tokens_for_validation() -> None:
    assert training_share(0.9, validating=1e-4) == pytest.approx(0.9 / (1 + EVAL_COST))


def test_a_short_run_pays_for_the_smallest_validation_set() -> None:
    assert training_share(0.9, validating=0.15) == pytest.approx(0.75)


def test_a_run_too_short_to_validate_still_trains() -> None:
    assert training_share(0.9, validating=3.0) == pytest.approx(0.9 * LEAST_TRAINING)
