import json

import pytest

from picollm.plan.rates import MUON_LR, OptimPlan, base_rates, optim_plan


def test_peaks_of_the_model_of_1e19_flops() -> None:
    plan = optim_plan(2**20, 3963, 1152)
    assert plan.muon.lr == pytest.approx(0.02828, abs=5e-6)
    expected = {
        "unembed": 0.00924,
        "embed": 0.3464,
        "value_embed": 0.1732,
        "x0_scale": 0.7071,
        "resid_scale": 0.00707,
    }
    for role, lr in expected.items():
        assert plan.adamw[role].lr == pytest.approx(lr, rel=5e-4), role
    assert plan.adamw["backout_scale"].lr == plan.adamw["smear"].lr == 0.2


def test_the_learning_rate_moves_every_group_by_one_factor() -> None:
    usual, doubled = base_rates(), base_rates(learning_rate=0.04)
    assert all(doubled[role] == pytest.approx(2 * lr) for role, lr in usual.items())
    assert base_rates(embedding_lr=0.1)["value_embed"] == 0.05


def test_an_optimizer_plan_survives_json() -> None:
    plan = optim_plan(2**18, 5000, 640)
    assert OptimPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_a_short_run_keeps_half_the_base_rates_whatever_its_batch() -> None:
    assert optim_plan(4096, 600, 768).muon.lr == pytest.approx(MUON_LR / 2)
    assert optim_plan(4096, 1200, 768).muon.lr == pytest.approx(MUON_LR / 4)
    assert optim_plan(4096, 10**6, 768).muon.lr == pytest.approx(MUON_LR * (4096 / 2**19) ** 0.5)


def test_the_x0_scales_of_a_short_run_follow_its_batch_alone() -> None:
    short = optim_plan(2**13, 200, 768).adamw
    assert short["x0_scale"].lr == pytest.approx(0.5 / 8)
    assert short["resid_scale"].lr == pytest.approx(0.005 / 8)
    assert short["embed"].lr == pytest.approx(0.3 / 2)


def test_a_scalar_that_does_not_follow_the_batch_is_still_never_above_it() -> None:
    assert optim_plan(2**20, 5000, 768).adamw["backout_scale"].lr == pytest.approx(0.2)
    assert optim_plan(2**13, 5000, 768).adamw["backout_scale"].lr == pytest.approx(0.2 / 8)
