"""The page says what the files say: figures, comparisons on equal terms, an honest line, and nothing unescaped."""

import json
import shutil
from pathlib import Path

import pytest

from picollm.errors import MissingError
from picollm.plan.render import effort_lines
from picollm.plan.trainplan import TrainPlan
from picollm.report.page import page, write_report
from picollm.report.run import Run

GOLDEN = Path(__file__).parents[2] / "golden" / "run"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of the golden run without its report."""
    folder = tmp_path / "run"
    shutil.copytree(GOLDEN, folder)
    (folder / "report.md").unlink()
    (folder / "loss.svg").unlink()
    return folder


def without_plan(text: str) -> str:
    """The page less its block of plan text, whose words belong to plan/render.py."""
    head, _, rest = text.partition("```text\n")
    return head + rest.partition("```\n")[2]


def test_the_page_of_the_golden_run_has_not_changed() -> None:
    assert without_plan(page(Run.read(GOLDEN))) == without_plan((GOLDEN / "report.md").read_text())


def test_the_plan_stands_on_the_page_in_the_words_of_the_plan() -> None:
    run = Run.read(GOLDEN)
    for line in effort_lines(TrainPlan.from_json(run.plan["plan"])):
        assert line.rstrip() in page(run)


def test_writing_leaves_page_and_picture_and_a_second_time_the_same(run: Path) -> None:
    first = write_report(Run.read(run)).read_bytes()
    assert (run / "loss.svg").is_file()
    assert write_report(Run.read(run)).read_bytes() == first


def test_predictors_are_ranked_and_the_model_is_among_them() -> None:
    table = [line for line in page(Run.read(GOLDEN)).splitlines() if "█" in line and line.startswith("|")]
    assert [line.split("|")[1].strip() for line in table] == [
        "**this model**", "gzip", "gzip+train", "bigram", "unigram"
    ]  # fmt: skip


def test_figures_of_different_rows_are_not_passed_off_as_comparable(run: Path) -> None:
    file = run / "evals" / "baselines.json"
    value = json.loads(file.read_text())
    file.write_text(json.dumps(value | {"set_hash": "another"}))
    assert "must not be compared" in page(Run.read(run))


def test_an_unfinished_run_says_so(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:30]) + lines[30][:20])  # and a line torn by a kill
    (run / "exit.json").write_text('{"reason": "SIGINT", "code": 130}')
    text = page(Run.read(run))
    assert "**Not finished**: step 26 of 60" in text
    assert "(SIGINT)" in text


def test_a_reply_cannot_write_markup_into_the_page(run: Path) -> None:
    (run / "evals" / "replies.json").write_text(
        json.dumps({"replies": [{"prompt": "hi", "reply": "<img src=x>\n\n# head\n[a](b) | c"}]})
    )
    text = page(Run.read(run))
    assert "<img" not in text.replace(r"\<", "")
    assert "\n# head" not in text
    assert r"\[a\]" in text


def test_a_run_without_plan_or_evaluations_still_has_a_page(run: Path) -> None:
    shutil.rmtree(run / "evals")
    (run / "plan.json").unlink()
    assert page(Run.read(run)).startswith("# run\n\nA run of 60 steps.")


def test_a_folder_without_a_run_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no run here"):
        Run.read(tmp_path)


def test_rates_leave_out_the_first_steps_and_those_that_carried_something_else(run: Path) -> None:
    timed = Run.read(run).timed
    assert [line["step"] for line in timed] == list(range(11, 61))
