"""Rows of the product's table of knobs that `plan` answers: the command, and what it must show."""

import re
from pathlib import Path

import pytest
from tests.unit.cli.waiting import ROWS, WAITING, shown

from picollm.cli.main import main
from picollm.plan.facts import DataFacts
from picollm.plan.render import render
from picollm.plan.request import TrainRequest
from picollm.plan.resolve import resolve
from picollm.runtime.machine import Machine

NOTE = "--batch-size 8 --nproc 8 --block-size 1024 --grad-accum 16"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PICOLLM_HOME", str(tmp_path))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], words: str) -> tuple[int, str, str]:
    gpu = [] if "--device cpu" in words else ["--gpu", "h100"]
    with pytest.raises(SystemExit) as done:
        main(["plan", *gpu, *words.split()])
    out, err = capsys.readouterr()
    assert isinstance(done.value.code, int)
    return done.value.code, out, err


def shows(capsys: pytest.CaptureFixture[str], words: str, *seen: str) -> None:
    code, out, err = run(capsys, words)
    assert (code, err) == (0, "")
    for text in seen:
        assert re.sub(r"\s+", " ", text) in re.sub(r"\s+", " ", out), text


def refuses(capsys: pytest.CaptureFixture[str], words: str, *said: str, code: int = 2) -> None:
    found, out, err = run(capsys, words)
    assert (found, out) == (code, "")
    for text in said:
        assert text in err


@pytest.mark.row("K9")
def test_a_vocabulary_past_16_bits_is_refused_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    refuses(capsys, "--vocab-size 65537", "16 bits", "65,536 is the most")


@pytest.mark.row("K10")
def test_the_vocabulary_is_priced(capsys: pytest.CaptureFixture[str]) -> None:
    shows(capsys, "--depth 4 --vocab-size 65536", "W201 96 % of 70 M parameters are embeddings")


@pytest.mark.row("K13")
def test_longer_rows_cost_flops_and_memory_and_no_new_shards(capsys: pytest.CaptureFixture[str]) -> None:
    base = "--depth 24 --vocab-size 32768 --max-seq-len"
    shows(capsys, f"{base} 1024", "4.577e+09 FLOPs/token", "re-shard: not needed")
    shows(capsys, f"{base} 2048", "4.775e+09 FLOPs/token", "memory/device", "re-shard: not needed")


@pytest.mark.row("K15")
def test_one_dial_derives_the_shape(capsys: pytest.CaptureFixture[str]) -> None:
    parts = ("token embedding 50.3 M", "value embeddings 604.0 M", "lm_head 50.3 M", "matrices 679.5 M", "total 1.38 B")
    shows(capsys, "--depth 24 --vocab-size 32768", "24 layers x 1536 wide, 12 heads x 128", *parts)


@pytest.mark.row("K16")
def test_narrow_heads_are_warned_of_with_a_shape_of_the_same_width(capsys: pytest.CaptureFixture[str]) -> None:
    shows(
        capsys,
        "--depth 6 --heads 24",
        "W202 head dim 16: kernels and capacity suffer",
        "6 heads x 64 is the same width",
    )
    refuses(
        capsys, "--depth 12 --heads 8 --head-dim 128 --hidden-size 768", "8 heads x 128 = 1024, but hidden size is 768"
    )


@pytest.mark.row("K17")
def test_a_width_is_rounded_up_to_whole_heads_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    shows(capsys, "--depth 5 --aspect-ratio 50 --head-dim 64", "hidden 250 → 256 (rounded up to 4 heads x 64)")


@pytest.mark.row("K18")
def test_an_unbalanced_shape_meets_its_equal(capsys: pytest.CaptureFixture[str]) -> None:
    shows(
        capsys,
        "--layers 2 --hidden-size 2048",
        "W203 under-deep: aspect 1024",
        "14 x 768 (99 M against 101 M in matrices)",
    )


@pytest.mark.row("K19")
def test_the_windows_are_printed_and_a_slow_pattern_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    shows(capsys, "--window-pattern SSSL --depth 8", "512 512 512 2048 512 512 512 2048")
    apple = Machine("mps", "Apple GPU", 1, 16 << 30, 8, 4e12, "given")
    assert "W301 SSSL runs as masked full attention here, slower than L" in render(
        resolve(TrainRequest(window_pattern="SSSL", depth=8), apple, None)
    )


@pytest.mark.row("K20")
def test_rows_per_device_are_the_first_factor_of_the_product(capsys: pytest.CaptureFixture[str]) -> None:
    shows(
        capsys, "--depth 24 --batch-size 16 --nproc 8", "16 seq x 2,048 tok x 8 GPUs x accum 4 = 1,048,576 tokens/step"
    )


@pytest.mark.row("K21")
def test_a_total_that_is_not_the_product_is_refused_with_the_product(capsys: pytest.CaptureFixture[str]) -> None:
    shows(capsys, NOTE, "= 1,048,576 tokens/step")
    refuses(capsys, f"{NOTE} --total-batch-size 524288", "8 x 8 x 16 x 1024 = 1,048,576, not 524,288")


@pytest.mark.row("K22")
def test_the_batch_is_always_shown_as_a_product(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ("--depth 4", "--preset tiny --device cpu", "--target-flops 1e18 --nproc 4"):
        assert re.search(r"\d+ seq x [\d,]+ tok x \d+ \w+ x accum \d+ .*= [\d,]+ tokens/step", run(capsys, words)[1])


@pytest.mark.row("K24")
def test_every_group_shows_its_peak_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "--depth 18 --vocab-size 65536 --learning-rate 0.04")
    rates = [line for line in out.splitlines() if "-> peak" in line]
    assert len(rates) == 6
    assert all("x1.414 batch" in line for line in rates)
    assert "Muon  0.04 -> peak 0.05657" in out


@pytest.mark.row("K27")
def test_steps_replace_the_horizon_and_epochs_are_stated(capsys: pytest.CaptureFixture[str]) -> None:
    shows(capsys, "--preset laptop --max-steps 5000", "5,000 steps")
    facts = DataFacts("fineweb-edu", "shards/fineweb-edu", "f" * 64, "a" * 64, 32_768, 9_900_000_000, 20_000_000)
    machine = Machine.gpus("h100", 1, cores=4)
    text = render(resolve(TrainRequest(depth=24, num_iterations=5000, total_batch_size=2**20), machine, facts))
    assert "5,242,880,000 tokens (5.24 B) = 0.53 epochs of 9.90 B" in text
    small = DataFacts("mine", "shards/mine", "f" * 64, "a" * 64, 32_768, 1_250_000_000, 20_000_000)
    text = render(resolve(TrainRequest(depth=24, num_iterations=5000, total_batch_size=2**20), machine, small))
    assert "W401 4.2 epochs" in text


@pytest.mark.row("K28")
def test_a_ratio_becomes_tokens_steps_and_flops(capsys: pytest.CaptureFixture[str]) -> None:
    words = "--depth 24 --vocab-size 32768 --target-param-data-ratio 8"
    shows(capsys, words, "5,568 steps", "(5.84 B)", "2.79e19 FLOPs")


@pytest.mark.row("K29")
def test_flops_choose_the_depth_and_name_its_neighbours(capsys: pytest.CaptureFixture[str]) -> None:
    words = "--target-flops 1e19 --vocab-size 65536"
    shows(capsys, words, "depth 18 (ratio 11.5; d16 20.8, d20 6.7)", "3,963 steps", "(4.16 B)", "shards 8.3 GB needed")


@pytest.mark.row("K30")
def test_two_horizons_are_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    refuses(capsys, "--target-flops 1e18 --max-steps 10", "--target-flops", "--max-steps", "--stop-after")


@pytest.mark.row("K31")
def test_checkpoints_are_priced(capsys: pytest.CaptureFixture[str]) -> None:
    words = "--depth 24 --vocab-size 32768 --target-param-data-ratio 8 --save-steps 100"
    shows(capsys, words, "55 checkpoints x 10.0 GB = 548 GB; kept: 4 = 40 GB")


@pytest.mark.row("K37")
def test_a_device_that_is_not_there_is_refused_with_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["plan", "--gpu", "h100", "--device", "cpu"])
    assert done.value.code == 2
    assert "--device cpu" in capsys.readouterr().err


@pytest.mark.row("K40")
def test_the_course_notes_token_sum(capsys: pytest.CaptureFixture[str]) -> None:
    shows(capsys, f"{NOTE} --max-steps 5000", "1,048,576 tokens/step", "5,242,880,000 tokens (5.24 B)")


@pytest.mark.row("K41")
def test_a_step_time_becomes_hours_and_money(capsys: pytest.CaptureFixture[str]) -> None:
    words = "--max-steps 5000 --step-time 2.84 --nproc 8 --price-per-gpu-hour 3"
    shows(capsys, words, "3 h 56 m 40 s · $94.67")


@pytest.mark.row("K42")
def test_no_price_is_invented(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    shows(capsys, "--depth 12", "cost: set --price-per-gpu-hour")
    monkeypatch.setenv("PICOLLM_GPU_PRICE", "2")
    assert "cost: set" not in run(capsys, "--depth 12")[1]


@pytest.mark.row("K43")
def test_the_two_questions_have_their_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    shows(capsys, "--depth 12", "How much language it sees", "How long it takes")


@pytest.mark.row("K49")
def test_a_plan_that_does_not_fit_names_three_changes_that_do(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "--depth 24 --vocab-size 65536 --device-batch-size 512")
    line = next(line for line in out.splitlines() if "E503" in line)
    assert "stops train (exit 5)" in line
    assert "fits: --device-batch-size" in line
    assert line.count(";") == 2


def test_every_row_is_shown_or_waits_for_something_named() -> None:
    tested = shown().keys()
    missing = [row for row in ROWS if row not in tested and row not in WAITING]
    assert not missing
    assert set(WAITING) <= set(ROWS)
