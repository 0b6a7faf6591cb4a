import math

from hypothesis import given
from hypothesis import strategies as st

from picollm.plan import laws
from picollm.plan.schedule import Schedule, rates_at

LENGTHS = st.integers(1, 100_000)


def schedule(steps: int, decay: float = 0.28) -> Schedule:
    return Schedule(
        steps,
        laws.warmup_steps(steps),
        laws.ramp_steps(steps),
        laws.warmdown_steps(steps),
        laws.FINAL_FRACTION,
        decay,
    )


def test_the_rate_rises_stays_and_falls_to_a_twentieth() -> None:
    s = schedule(1000)
    assert (s.warmup, s.ramp, s.warmdown) == (20, 150, 650)
    assert rates_at(0, s).lr == 1 / 20
    assert rates_at(19, s).lr == rates_at(350, s).lr == 1.0
    assert math.isclose(rates_at(999, s).lr, 1 / 650 + (1 - 1 / 650) * 0.05)


def test_momentum_starts_low_peaks_and_cools() -> None:
    s = schedule(1000)
    assert rates_at(0, s).momentum == 0.85
    assert math.isclose(rates_at(150, s).momentum, 0.97)
    assert math.isclose(rates_at(350, s).momentum, 0.97)
    assert math.isclose(rates_at(999, s).momentum, 0.97 - 0.07 * 649 / 650)


def test_decay_is_half_a_cosine() -> None:
    s = schedule(1000)
    assert rates_at(0, s).decay == 0.28
    assert math.isclose(rates_at(500, s).decay, 0.14)


@given(LENGTHS, st.data())
def test_no_rate_jumps_whatever_the_length(steps: int, data: st.DataObject) -> None:
    s = schedule(steps)
    step = data.draw(st.integers(0, steps - 1))
    now = rates_at(step, s)
    assert 0 < now.lr <= 1
    assert 0.85 <= now.momentum <= 0.97
    assert 0 <= now.decay <= 0.28
    if step + 1 < steps:
        after = rates_at(step + 1, s)
        fall = 1 / max(1, s.warmdown)
        assert abs(after.lr - now.lr) <= 1 / s.warmup + fall + 1e-12
        assert abs(after.momentum - now.momentum) <= 0.12 / s.ramp + 0.07 * fall + 1e-12
        assert after.decay <= now.decay


@given(LENGTHS)
def test_the_rate_is_monotone_up_flat_and_down(steps: int) -> None:
    s = schedule(steps)
    assert rates_at(s.warmup - 1, s).lr == 1.0
    probes = sorted({s.steps - s.warmdown + i * max(1, s.warmdown // 50) for i in range(50)} & set(range(steps)))
    values = [rates_at(step, s).lr for step in probes if step >= s.warmup]
    assert values == sorted(values, reverse=True)


def test_a_warm_up_that_meets_the_warm_down_takes_the_lower() -> None:
    s = Schedule(steps=10, warmup=8, ramp=1, warmdown=8, final=0.0, decay=0.0)
    assert [round(rates_at(i, s).lr, 3) for i in range(10)] == [
        0.125, 0.25, 0.375, 0.5, 0.625, 0.625, 0.5, 0.375, 0.25, 0.125,
    ]  # fmt: skip
