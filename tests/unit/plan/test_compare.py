"""The course note's seven example changes, each through the six questions (K44)."""

from dataclasses import replace

import pytest

from picollm.plan.compare import Comparison, compare
from picollm.plan.facts import DataFacts
from picollm.plan.knobs import Question as Q
from picollm.plan.request import TrainRequest
from picollm.plan.resolve import resolve
from picollm.plan.trainplan import TrainPlan
from picollm.runtime.machine import Machine

NOTE = {"depth": 12, "device_batch_size": 8, "nproc": 8, "grad_accum": 16, "max_seq_len": 1024, "num_iterations": 5000}
FACTS = DataFacts("fineweb-edu", "shards/fineweb-edu", "f" * 64, "a" * 64, 32_768, 9_900_000_000, 20_000_000, 9_000_000,
                  18_000, 43_362_000_000, 87_600_000)  # fmt: skip


def plan_of(data: DataFacts | None = None, **said: object) -> TrainPlan:
    return resolve(TrainRequest.from_json(said), Machine.gpus("h100", 8, cores=16), data)


def yes(found: Comparison) -> set[Q]:
    return {answer.question for answer in found.answers if answer.changes}


def text(found: Comparison, question: Q) -> str:
    return next(answer.text for answer in found.answers if answer.question is question)


@pytest.mark.row("K44")
def test_a_larger_vocabulary_changes_granularity_and_capacity_and_leaves_the_rates() -> None:
    found = compare(plan_of(depth=12), plan_of(depth=12, vocab_size=65_536), {32_768: 4.38, 65_536: 4.63})
    assert yes(found) == {Q.GRANULARITY, Q.CAPACITY, Q.MEMORY, Q.BUDGET}
    assert text(found, Q.GRANULARITY) == "coarser: 4.38 → 4.63 bytes/token → 5 % fewer tokens for the same text"
    assert "286.3 M → 487.6 M, all in embeddings (wte +25.2 M, lm_head +25.2 M, value +151.0 M)" in text(
        found, Q.CAPACITY
    )
    assert "matrices stay 84.9 M" in text(found, Q.CAPACITY)
    assert "ratio 12 x (110.1 M → 135.3 M): 1.32 B → 1.62 B tokens, 2,520 → 3,096 steps" in text(found, Q.BUDGET)
    assert "1.00e18 → 1.48e18 FLOPs (+47 %)" in text(found, Q.BUDGET)
    assert (found.comparable_by, found.checkpoints) == ("val bpb (not loss)", "no")
    assert found.shards == "no (different tokenizer)"


@pytest.mark.row("K44")
def test_a_shorter_row_changes_memory_and_neither_tokens_nor_capacity() -> None:
    found = compare(plan_of(depth=12, device_batch_size=16), plan_of(depth=12, device_batch_size=16, max_seq_len=1024))
    assert Q.MEMORY in yes(found)
    assert not yes(found) & {Q.DISTRIBUTION, Q.GRANULARITY, Q.CAPACITY, Q.STABILITY}
    assert found.shards == "yes"


@pytest.mark.row("K44")
def test_a_wider_model_changes_capacity_and_memory() -> None:
    found = compare(plan_of(**NOTE), plan_of(**NOTE, hidden_size=1024))
    assert {Q.CAPACITY, Q.MEMORY} <= yes(found)
    assert not yes(found) & {Q.DISTRIBUTION, Q.GRANULARITY}
    assert found.checkpoints == "no (other shapes)"


@pytest.mark.row("K44")
def test_more_rows_per_device_change_memory_and_throughput_and_not_the_result() -> None:
    found = compare(plan_of(depth=12, device_batch_size=8), plan_of(depth=12, device_batch_size=16))
    assert yes(found) == {Q.MEMORY}
    assert found.asides == ("throughput: 8 rows x 1 x accum 32 → 16 rows x 1 x accum 16; the result stays",)


@pytest.mark.row("K44")
def test_more_accumulation_changes_stability_and_never_memory() -> None:
    ratio = {"depth": 12, "device_batch_size": 8}
    found = compare(plan_of(**ratio, grad_accum=16), plan_of(**ratio, grad_accum=32))
    assert yes(found) == {Q.STABILITY}
    assert "tokens/step 262,144 → 524,288" in text(found, Q.STABILITY)


@pytest.mark.row("K44")
def test_more_steps_change_the_budget_and_nothing_else() -> None:
    found = compare(plan_of(**NOTE), plan_of(**NOTE | {"num_iterations": 10_000}))
    assert yes(found) == {Q.BUDGET}
    assert "5.24 B → 10.5 B tokens, 5,000 → 10,000 steps" in text(found, Q.BUDGET)


@pytest.mark.row("K44")
def test_bf16_changes_memory_and_precision_and_not_the_budget() -> None:
    found = compare(plan_of(**NOTE, dtype="fp32"), plan_of(**NOTE, dtype="bf16"))
    assert yes(found) == {Q.MEMORY, Q.STABILITY}
    assert "precision fp32 → bf16" in text(found, Q.STABILITY)
    assert any("fp32 → bf16" in aside for aside in found.asides)


def test_a_plan_is_the_same_as_itself() -> None:
    plan = plan_of(FACTS, depth=12)
    found = compare(plan, plan)
    assert found.same
    assert found.render().startswith("changed: nothing\n")


def test_a_name_changes_nothing() -> None:
    assert compare(plan_of(depth=12), plan_of(depth=12, name="mine")).same


def test_other_shards_are_other_documents_and_other_tokenizations_are_not() -> None:
    other = replace(FACTS, name="wikitext", fingerprint="0" * 64, train_documents=5, train_bytes=10**9)
    assert yes(compare(plan_of(FACTS, depth=4), plan_of(other, depth=4))) == {Q.DISTRIBUTION}
    again = replace(
        FACTS, fingerprint="1" * 64, tokenizer_sha256="b" * 64, vocab_size=65_536, train_tokens=9_366_000_000
    )
    found = compare(plan_of(FACTS, depth=4), plan_of(again, depth=4))
    assert Q.DISTRIBUTION not in yes(found)
    assert text(found, Q.GRANULARITY).startswith("coarser: 4.38 → 4.63 bytes/token")


def test_a_said_decay_is_a_change_of_stability_and_a_rules_decay_is_not() -> None:
    assert Q.STABILITY in yes(compare(plan_of(depth=12), plan_of(depth=12, weight_decay=0.1)))
    assert "follows the tokens" in text(
        compare(plan_of(**NOTE), plan_of(**NOTE | {"num_iterations": 6000})), Q.STABILITY
    )


def test_the_answers_as_json_stand_in_the_order_of_the_questions() -> None:
    value = compare(plan_of(depth=12), plan_of(depth=14)).to_json()
    assert value["schema"] == "picollm.diff/1"
    assert [answer["question"] for answer in value["answers"]] == [question.value for question in Q]
    assert value["changed"] == {"depth": {"a": 12, "b": 14}}
