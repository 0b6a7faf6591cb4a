import json
import random

import numpy as np
import pytest
import torch

from picollm.runtime import rng


def draws() -> list[float]:
    return [random.random(), random.gauss(0, 1), float(np.random.normal()), float(torch.randn(()))]


@pytest.mark.row("C12")
def test_restored_generators_go_on_where_the_captured_ones_stood() -> None:
    former = rng.capture()
    try:
        random.gauss(0, 1)
        np.random.normal()
        torch.randn(3)
        states = json.loads(json.dumps(rng.capture()))
        expected = [draws() for _ in range(5)]
        rng.restore(states)
        assert [draws() for _ in range(5)] == expected
        rng.restore(states)
        assert rng.capture() == states
    finally:
        rng.restore(former)
