import pytest
from tests.unit.cli.golden import EXAMPLES, FOLDER, output


@pytest.mark.row("K43")
@pytest.mark.parametrize("name", EXAMPLES)
def test_what_a_command_prints_is_what_was_agreed(name: str) -> None:
    assert output(EXAMPLES[name]) == (FOLDER / f"{name}.txt").read_text(), "python -m tests.unit.cli.golden, then read"


def test_no_snapshot_is_left_without_its_command() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(EXAMPLES)
