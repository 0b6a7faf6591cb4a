"""Fine-tuning: what is inherited, what is learned, and that a stop loses nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.train.base_run import base_run

from picollm.ckpt.store import load_model
from picollm.conversation import Conversation
from picollm.corpus.smalltalk import smalltalk
from picollm.errors import MissingError, PlanMismatch
from picollm.plan.request import Interval
from picollm.plan.sft import SftRequest
from picollm.train.opening import read_plan
from picollm.train.sft import Chats, describe, run_sft, score_smalltalk, smalltalk_chats, split_chats

CHATS = Chats(
    "few",
    [Conversation.of("who are you?", "I am Pico."), Conversation.of("what is it?", "a tiny string.")] * 20,
    [Conversation.of("who are you?", "I am Pico.")],
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    base_run(folder)
    return folder


def tune(runs: Path, chats: Chats = CHATS, **said: Any) -> Path:
    request = SftRequest(**({"num_iterations": 12, "eval_every": 6, "total_batch_size": 256} | said))
    return run_sft(runs / "base", chats, request, runs, screen=None)


def lines(run: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


def test_answers_are_learned_and_the_run_is_a_chat_model(runs: Path) -> None:
    run = tune(runs)
    steps, evals = lines(run, "step"), lines(run, "eval")
    assert [line["step"] for line in steps] == list(range(1, 13))
    assert evals[-1]["bpb"] < 0.8 * evals[0]["bpb"]
    loaded = load_model(run)
    assert (loaded.meta.stage, loaded.meta.step) == ("sft", 12)
    base = load_model(runs / "base")
    assert loaded.config == base.config
    assert loaded.tokenizer.fingerprint == base.tokenizer.fingerprint
    assert run.name == "base-sft"


def test_only_what_the_assistant_says_is_counted(runs: Path) -> None:
    run = tune(runs, name="counted", num_iterations=2)
    tokenizer = load_model(run).tokenizer
    said = [len(tokenizer.encode(text)) + 1 for text in ("I am Pico.", "a tiny string.")]
    plan = read_plan(run)
    assert plan is not None
    for line in lines(run, "step"):
        assert min(said) * 4 <= line["n_valid"] <= plan.tokens_per_step // 2


def test_the_same_command_again_finds_the_run_finished_and_another_is_refused(runs: Path) -> None:
    first = tune(runs, name="again")
    before = (first / "metrics.jsonl").read_bytes()
    assert tune(runs, name="again") == first
    assert (first / "metrics.jsonl").read_bytes() == before
    with pytest.raises(PlanMismatch, match="steps"):
        tune(runs, name="again", num_iterations=13)
    with pytest.raises(PlanMismatch, match="shards"):
        tune(runs, Chats("other", CHATS.train[:7], CHATS.val), name="again")


@pytest.mark.row("C1")
def test_a_tuning_that_was_cut_off_goes_on_to_the_same_bits(runs: Path) -> None:
    whole = tune(runs, name="whole", save_every=Interval(5, "steps"))
    for saved in ("step-0000000005", "step-0000000010"):
        cut = tune(runs, name=f"cut-{saved}", save_every=Interval(5, "steps"))
        for path in sorted((cut / "checkpoints").iterdir()):
            if path.name > saved:
                for file in path.iterdir():
                    file.unlink()
                path.rmdir()
        assert tune(runs, name=f"cut-{saved}", save_every=Interval(5, "steps")) == cut
        losses = [[line["loss_hex"] for line in lines(run, "step")] for run in (whole, cut)]
        assert losses[0] == losses[1]


@pytest.mark.row("K45")
def test_chats_that_are_too_long_or_have_nothing_to_learn_stay_finite(runs: Path) -> None:
    long = Conversation.of("x " * 400, "never read")
    run = tune(runs, Chats("long", [long] * 8, []), name="long", num_iterations=3)
    assert [line["loss"] for line in lines(run, "step")] == [0.0] * 3
    assert lines(run, "step")[-1]["updates"] == 0
    mixed = tune(runs, Chats("mixed", [long, *CHATS.train], [long]), name="mixed", num_iterations=3)
    assert all(0 < line["loss"] < 10 for line in lines(mixed, "step"))


def test_a_folder_without_a_model_is_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no checkpoint"):
        run_sft(tmp_path, CHATS, SftRequest(), runs, screen=None)


def test_validation_is_chosen_by_content() -> None:
    many = [Conversation.of(f"question {number}", "yes") for number in range(2000)]
    chats = split_chats("many", many)
    assert 50 < len(chats.val) < 160
    assert len(chats.train) + len(chats.val) == 2000
    assert set(split_chats("half", many[:1000]).val) == set(many[:1000]) & set(chats.val)


def test_facts_are_scored_and_left_with_the_run(runs: Path) -> None:
    talk, chats = smalltalk_chats(20, seed=3)
    assert len(chats.train) == 20
    assert talk.trained == smalltalk(3).trained
    run = tune(runs, name="scored", num_iterations=1)
    scores = score_smalltalk(run, talk)
    assert scores["trained"]["sum"]["n"] == 40
    assert scores["held_out"]["sum"]["n"] == 7
    assert json.loads((run / "evals" / "facts.json").read_text())["held_out"] == scores["held_out"]
    assert describe(scores).startswith("answered right: sum ")
