"""The picture says what the metrics say, is small whatever their number, and never changes by itself."""

import itertools
import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picollm.report.picture import apart, draw, smooth, sparkline, thin, ticks
from picollm.report.run import Run

GOLDEN = Path(__file__).parents[2] / "golden" / "run"
SVG = "{http://www.w3.org/2000/svg}"


def run_of(tmp_path: Path, lines: list[dict[str, object]]) -> Run:
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Run.read(tmp_path)


def step(number: int, loss: float | None = 4.0) -> dict[str, object]:
    return {"kind": "step", "t": number, "step": number, "tokens": 100 * number, "loss": loss, "lr_mult": 1.0}


def test_the_picture_of_the_golden_run_has_not_changed() -> None:
    assert draw(Run.read(GOLDEN)) == (GOLDEN / "loss.svg").read_text()


def test_the_picture_is_well_formed_and_speaks_to_those_who_cannot_see_it() -> None:
    root = ElementTree.fromstring((GOLDEN / "loss.svg").read_text())
    words = root.findtext(f"{SVG}desc") or ""
    assert root.get("role") == "img"
    assert root.findtext(f"{SVG}title") == "Training curve of run"
    assert "bits per byte at step 50" in words
    assert "unigram reaches 2.910" in words


def test_everything_lies_inside_the_frame() -> None:
    root = ElementTree.fromstring((GOLDEN / "loss.svg").read_text())
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for shape in root.iter():
        for point in shape.get("points", "").split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= width
            assert 0 <= y <= height


def test_a_million_steps_make_a_small_file(tmp_path: Path) -> None:
    points = [(float(index), math.sin(index)) for index in range(1_000_000)]
    assert len(thin(points)) <= 2 * 360
    assert max(thin(points), key=lambda point: point[1]) == max(points, key=lambda point: point[1])
    assert len(draw(run_of(tmp_path, [step(index, 4 + math.sin(index)) for index in range(1, 5001)]))) < 40_000


def test_a_loss_that_is_no_number_leaves_a_gap_and_no_nan(tmp_path: Path) -> None:
    picture = draw(run_of(tmp_path, [step(1), step(2, None), step(3, 3.0)]))
    assert "nan" not in picture.lower().replace("nanat", "")


@pytest.mark.parametrize("lines", [[], [step(1)], [{"kind": "eval", "t": 0, "step": 0, "bpb": 3.5}]])
def test_a_run_that_has_hardly_begun_can_be_drawn(tmp_path: Path, lines: list[dict[str, object]]) -> None:
    ElementTree.fromstring(draw(run_of(tmp_path, lines)))


def test_a_name_cannot_break_out_of_the_picture(tmp_path: Path) -> None:
    folder = tmp_path / "<script>&\"'"
    folder.mkdir()
    root = ElementTree.fromstring(draw(run_of(folder, [step(1), step(2)])))
    assert not root.findall(f".//{SVG}script")


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 9))
def test_ticks_lie_inside_at_equal_distances_and_are_few(low: float, width: float, about: int) -> None:
    marks = ticks(low, low + width, about)
    slack = 1e-6 * width
    assert 1 <= len(marks) <= about + 2
    assert all(low - slack <= mark <= low + width + slack for mark in marks)
    gaps = [b - a for a, b in itertools.pairwise(marks)]
    assert all(gap == pytest.approx(gaps[0], rel=1e-6) for gap in gaps)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=6))
def test_labels_do_not_overlap_and_keep_their_order(wanted: list[float]) -> None:
    placed = apart(wanted, 15, 0, 100)
    in_order = [placed[index] for index in sorted(range(len(wanted)), key=lambda index: wanted[index])]
    assert all(b - a >= 15 - 1e-9 for a, b in itertools.pairwise(in_order))
    assert all(0 - 1e-9 <= height <= 100 + 1e-9 for height in placed)


def test_smoothing_keeps_a_straight_line_and_starts_where_it_starts() -> None:
    line = [(float(index), 2.0 * index) for index in range(100)]
    assert all(y == pytest.approx(2 * x) for x, y in smooth(line)[:90])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], ""),
        ([3.0], "▁"),
        ([5.0, 5.0], "▁▁"),
        (range(8), "▁▂▃▄▅▆▇█"),
        ([8.0, math.nan, 1.0], "█▁"),
        ([9, 9, 5, 5, 1, 1, 1, 1], "██▅▅▁▁▁▁"),
    ],
)
def test_a_sparkline_runs_from_lowest_to_highest(values: list[float], expected: str) -> None:
    assert sparkline(values) == expected
