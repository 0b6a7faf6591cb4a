import math
import re
from pathlib import Path

import pytest

from picollm.plan import warnings
from picollm.plan.codes import BY_CODE, CODES
from picollm.plan.explain import dtype_table, explain_at, explain_code, explain_defaults, explain_knob, explain_loss
from picollm.plan.knobs import BY_NAME, KNOBS
from picollm.plan.request import NAMES, TrainRequest
from picollm.plan.resolve import resolve
from picollm.plan.trainplan import TrainPlan
from picollm.plan.values import READERS, value_of
from picollm.runtime.machine import Machine

PACKAGE = Path(warnings.__file__).parents[1]
H100 = Machine.gpus("h100", 1, cores=16)


def plan_of(machine: Machine = H100, **said: object) -> TrainPlan:
    return resolve(TrainRequest.from_json(said), machine, None)


def test_every_knob_says_why_and_shows_an_example_that_can_be_read() -> None:
    for knob in KNOBS:
        assert len(knob.why) > 20, knob.name
        assert knob.rule, knob.name
        assert knob.example.startswith("--"), knob.name


def test_every_field_of_a_request_is_a_knob_with_a_value() -> None:
    assert set(NAMES) == set(BY_NAME) == set(READERS)
    plan = plan_of(depth=12)
    for knob in KNOBS:
        value_of(plan, knob)


def test_a_value_that_was_said_is_the_value_shown() -> None:
    plan = plan_of(depth=6, heads=6, num_iterations=500, warmup_steps=7, learning_rate=0.04, weight_decay=0.1)
    expected = {"depth": 6, "heads": 6, "num_iterations": 500, "warmup_steps": 7, "learning_rate": 0.04}
    expected |= {"weight_decay": 0.1, "hidden_size": 384, "embedding_lr": 0.6}
    assert {name: value_of(plan, BY_NAME[name]) for name in expected} == pytest.approx(expected)


def test_every_warning_of_the_plan_room_is_in_the_catalogue_and_every_code_is_used() -> None:
    used = set()
    for path in PACKAGE.rglob("*.py"):
        if path.name != "codes.py":
            used |= set(re.findall(r"\b[WE][1-5][0-9]{2}\b", path.read_text()))
    in_plan = set(re.findall(r'Warning\(\s*"([WE][0-9]{3})"', (PACKAGE / "plan" / "warnings.py").read_text()))
    assert in_plan <= BY_CODE.keys() <= used
    assert {code for knob in KNOBS for code in knob.warnings} <= BY_CODE.keys()
    for code in CODES:
        assert all(name in BY_NAME for name in code.knobs), code.code


def test_an_explanation_of_a_knob_holds_its_value_its_layer_and_what_it_changes() -> None:
    text = explain_knob(BY_NAME["vocab_size"], plan_of(depth=4, vocab_size=65_536)).render()
    assert "65,536 [flag --vocab-size]" in text
    assert "2 how text becomes tokens" in text
    assert "question 2" in text
    assert "W201" in text
    assert "picollm diff tiny '--preset tiny --vocab-size 4096'" in text


def test_a_code_says_whether_it_is_in_this_plan() -> None:
    assert "96 % of 70 M" in explain_code(BY_CODE["W201"], plan_of(depth=4, vocab_size=65_536)).render()
    assert "in this plan no" in explain_code(BY_CODE["W402"], plan_of(depth=12)).render()


@pytest.mark.row("K50")
def test_every_default_has_a_value_a_rule_and_a_reason() -> None:
    facts = explain_defaults(plan_of(depth=12)).to_json()["knobs"]
    assert facts.keys() == BY_NAME.keys()
    assert all(entry["rule"] and entry["why"] and entry["origin"] for entry in facts.values())


@pytest.mark.row("K10")
def test_the_price_of_a_vocabulary_stands_beside_others() -> None:
    plans = [plan_of(depth=4, vocab_size=size) for size in (4096, 32_768, 65_536)]
    found = explain_at(BY_NAME["vocab_size"], plans, {4096: 3.5, 32_768: 4.38})
    rows = found.to_json()["rows"]
    assert [row["value"] for row in rows] == [4096, 32_768, 65_536]
    assert rows[2]["params"] > rows[1]["params"] > rows[0]["params"]
    assert rows[2]["logits_whole"] == 2 * rows[1]["logits_whole"]
    assert [row["bytes_per_token"] for row in rows] == [3.5, 4.38, None]
    text = found.render()
    assert f"{1e6 / 3.5:,.0f}" in text  # tokens for the same megabyte
    assert "not measured" in text


@pytest.mark.row("K35")
def test_the_formats_of_a_machine_say_what_they_need() -> None:
    on_cpu = {row["name"]: row for row in dtype_table(Machine.cpu(1e11))}
    assert on_cpu["fp8"]["supported"] == "needs SM 89+"
    assert on_cpu["fp32"]["supported"] == "yes"
    assert on_cpu["fp16"]["scaler"] == "yes"
    on_h100 = {row["name"]: row["supported"] for row in dtype_table(H100)}
    assert set(on_h100.values()) == {"yes"}
    assert {row["name"]: row["supported"] for row in dtype_table(Machine.gpus("a100", 1))}["fp8"] == "needs SM 89+"


def test_the_first_loss_is_that_of_a_blind_guess() -> None:
    found = explain_loss(plan_of(depth=4, vocab_size=4096))
    assert found.to_json()["first_loss"] == pytest.approx(math.log(4096))
    assert "ln 4,096 = 8.32" in found.render()
