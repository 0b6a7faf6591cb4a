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
