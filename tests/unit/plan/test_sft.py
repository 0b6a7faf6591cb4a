"""Fine-tuning inherits shape and batch, and scales the rates."""

import json
from dataclasses import replace

import pytest

from picollm.errors import UsageError
from picollm.plan.facts import DataFacts
from picollm.plan.request import TrainRequest
from picollm.plan.resolve import resolve
from picollm.plan.schedule import rates_at
from picollm.plan.sft import SftRequest, finetune
from picollm.plan.trainplan import TrainPlan
from picollm.runtime.machine import Machine

CHATS = DataFacts("smalltalk", "smalltalk", "f" * 64, "0" * 64, 300, 60_000, 4_000)


@pytest.fixture(scope="module")
def base() -> TrainPlan:
    request = TrainRequest(depth=2, num_iterations=300, total_batch_size=2048, max_seq_len=128, name="b")
    machine = Machine(name="a CPU", device="cpu", count=1, memory=8 << 30, cores=2)
    shards = DataFacts("stdlib", "shards/stdlib", "a" * 64, "0" * 64, 300, 10**7, 10**5)
    return resolve(request, machine, shards)


def test_shape_and_batch_are_inherited_and_rates_scaled(base: TrainPlan) -> None:
    plan = finetune(base, SftRequest(), CHATS, 16 * 250)
    assert (plan.model, plan.rows_per_step, plan.seed) == (base.model, base.rows_per_step, base.seed)
    assert (plan.steps, plan.name, plan.data) == (250, "b-sft", CHATS)
    assert plan.optim.muon.lr == pytest.approx(base.optim.muon.lr * 0.8)
    for role, group in plan.optim.adamw.items():
        assert group.lr == pytest.approx(base.optim.adamw[role].lr * 0.8)
    rates = [rates_at(step, plan.schedule) for step in range(250)]
    assert [rate.lr for rate in rates[:126]] == [1.0] * 126
    assert rates[-1].lr == pytest.approx(1 / 125)
    assert {rate.decay for rate in rates} == {0.0}


def test_a_pass_of_few_steps_halves_the_batch_and_keeps_the_rates(base: TrainPlan) -> None:
    plan = finetune(base, SftRequest(), CHATS, 900)
    assert (plan.rows_per_step, plan.steps) == (4, 225)
    assert plan.optim == finetune(base, SftRequest(), CHATS, 4000).optim
    assert finetune(base, SftRequest(), CHATS, 10).tokens_per_step == 512
    assert finetune(base, SftRequest(num_iterations=10), CHATS, 10).rows_per_step == base.rows_per_step


def test_epochs_and_steps_are_two_ways_to_say_how_long(base: TrainPlan) -> None:
    assert finetune(base, SftRequest(num_epochs=3), CHATS, 1601).steps == 301
    plan = finetune(base, SftRequest(num_iterations=90, total_batch_size=512), CHATS, 160)
    assert (plan.rows_per_step, plan.steps, plan.max_epochs) == (4, 90, 3.0)
    with pytest.raises(UsageError, match="two horizons"):
        SftRequest(num_epochs=1, num_iterations=1)


def test_the_plan_survives_json(base: TrainPlan) -> None:
    plan = finetune(base, SftRequest(num_epochs=2), CHATS, 40)
    assert TrainPlan.from_json(json.loads(json.dumps(plan.to_json()))) == replace(plan, request=plan.request)


@pytest.mark.parametrize("field", ["num_epochs", "num_iterations", "total_batch_size", "rate_scale", "keep"])
def test_a_number_that_is_not_positive_is_refused(field: str) -> None:
    with pytest.raises(UsageError, match=field.replace("_", "-")):
        SftRequest(**{field: 0})


def test_a_batch_that_is_no_whole_number_of_rows_is_refused_with_one_that_is(base: TrainPlan) -> None:
    with pytest.raises(UsageError) as error:
        finetune(base, SftRequest(total_batch_size=1000), CHATS, 40)
    assert error.value.hint == "--total-batch-size 1024"
