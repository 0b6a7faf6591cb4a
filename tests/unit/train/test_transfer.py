"""Activations keep their size as the model grows wider, so that rates found at one width hold at another."""

import pytest
from tests.campaigns.coords import BOUNDS, exponents, sizes_after


@pytest.mark.slow
def test_after_ten_steps_no_activation_grows_faster_with_the_width_than_its_bound() -> None:
    found = {width: [sizes_after(width, seed=1)] for width in (128, 256)}
    grown = exponents(found)
    assert {name: grown[name] for name, bound in BOUNDS.items() if abs(grown[name]) > bound} == {}
