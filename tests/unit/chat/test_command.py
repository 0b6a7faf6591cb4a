"""`picollm chat` as it is typed."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.unit.train.base_run import base_run

from picollm.cli.chat import command
from picollm.errors import MissingError, UsageError


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    base_run(folder)
    return folder


def chat(runs: Path, *said: str, typed: str | None = None) -> Result:
    return CliRunner().invoke(command, [*said, "--runs-dir", str(runs)], input=typed, catch_exceptions=False)


@pytest.mark.row("J3")
def test_the_same_seed_answers_identically_twice(runs: Path) -> None:
    first, second = (chat(runs, "-p", "who are you?", "--seed", "1", "--max-tokens", "20") for _ in range(2))
    assert first.exit_code == second.exit_code == 0
    assert first.stdout == second.stdout != ""
    assert first.stdout != chat(runs, "-p", "who are you?", "--seed", "2", "--max-tokens", "20").stdout


def test_the_model_that_was_taken_is_said_and_that_a_base_model_continues(runs: Path) -> None:
    said = chat(runs, "-p", "who", "--max-tokens", "2").stderr
    assert "base, step 200" in said
    assert "seed" in said
    assert "continues your text" in said


def test_lines_of_input_are_answered_until_they_end(runs: Path) -> None:
    result = chat(runs, "base", "--max-tokens", "3", "--seed", "1", typed="who\n\nyou\n")
    assert result.exit_code == 0
    assert len(result.stdout) > 6


def test_one_answer_that_cannot_be_given_is_an_error(runs: Path) -> None:
    with pytest.raises(UsageError, match="context"):
        chat(runs, "-p", "x" * 500)
    with pytest.raises(UsageError, match="temperature"):
        chat(runs, "-p", "x", "-t", "9")
    with pytest.raises(MissingError):
        chat(runs, "nobody", "-p", "x")


@pytest.mark.row("K46")
def test_the_same_prompts_go_to_two_models_side_by_side(runs: Path) -> None:
    said = ("--compare", "base,base", "--seed", "3", "--max-tokens", "12")
    result = chat(runs, *said, typed="who are you?\n\nwhat is it\n")
    lines = result.stdout.splitlines()
    assert [half.strip() for half in lines[0].split("│")] == ["base", "base"]
    assert [line for line in lines if line.startswith("> ")] == ["> who are you?", "> what is it"]
    answers = [line.split("│") for line in lines[1:] if "│" in line]
    assert answers
    assert all(one.strip() == other.strip() for one, other in answers)
    once = chat(runs, *said, "-p", "who are you?").stdout
    assert once.splitlines() == lines[: len(once.splitlines())]


def test_a_comparison_is_of_two_models(runs: Path) -> None:
    for said in (("--compare", "base"), ("--compare", "base,base,base"), ("base", "--compare", "base,base")):
        with pytest.raises(UsageError, match="two models"):
            chat(runs, *said)
    with pytest.raises(MissingError, match="nobody"):
        chat(runs, "--compare", "base,nobody", "-p", "x")


def test_a_prompt_that_one_model_refuses_is_answered_by_the_other_words(runs: Path) -> None:
    assert "(the prompt has" in chat(runs, "--compare", "base,base", "-p", "x" * 500).stdout


def test_the_run_that_was_taken_unasked_is_said(runs: Path) -> None:
    assert "the run that finished last" in chat(runs, "-p", "who", "--max-tokens", "1").stderr
    assert "the run that finished last" not in chat(runs, "base", "-p", "who", "--max-tokens", "1").stderr
