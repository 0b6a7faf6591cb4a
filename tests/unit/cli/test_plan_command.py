import json
import subprocess
import sys
from pathlib import Path

import pytest

from picollm.cli.main import main
from picollm.plan.knobs import KNOBS

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PICOLLM_HOME", str(tmp_path))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as done:
        main(["plan", "--gpu", "h100", *words])
    out, err = capsys.readouterr()
    assert isinstance(done.value.code, int)
    return done.value.code, out, err


def test_the_courses_token_sum(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--batch-size", "8", "--nproc", "8", "--grad-accum", "16", "--block-size", "1024", "--max-steps", "5000"]
    code, out, _ = run(capsys, *words)
    assert code == 0
    assert "8 seq x 1,024 tok x 8 GPUs x accum 16 = 1,048,576 tokens/step" in out
    assert "5,242,880,000 tokens (5.24 B)" in out


def test_a_wrong_product_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--batch-size",
        "8",
        "--nproc",
        "8",
        "--block-size",
        "1024",
        "--grad-accum",
        "16",
        "--total-batch-size",
        "524288",
    ]
    code, _, err = run(capsys, *words)
    assert code == 2
    assert "8 x 8 x 16 x 1024 = 1,048,576, not 524,288" in err


def test_a_log_line_becomes_hours_and_money(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--max-steps", "5000", "--step-time", "2.84", "--nproc", "8", "--price-per-gpu-hour", "3"]
    assert "3 h 56 m 40 s · $94.67" in run(capsys, *words)[1]
    assert "cost: set --price-per-gpu-hour" in run(capsys, "--depth", "12")[1]


@pytest.mark.row("K36")
@pytest.mark.parametrize(
    ("words", "seen"),
    [
        ("--depth 4 --vocab-size 65536", "W201 96 % of 70 M parameters are embeddings"),
        ("--depth 24 --vocab-size 32768", "24 layers x 1536 wide, 12 heads x 128"),
        ("--depth 24 --vocab-size 32768", "4.775e+09 FLOPs/token"),
        ("--depth 24 --vocab-size 32768 --max-seq-len 1024", "4.577e+09 FLOPs/token"),
        ("--depth 6 --heads 24", "W202 head dim 16: kernels and capacity suffer: 6 heads x 64 is the same width"),
        ("--depth 5 --aspect-ratio 50 --head-dim 64", "hidden 250 → 256 (rounded up to 4 heads x 64)"),
        ("--layers 2 --hidden-size 2048", "W203 under-deep: aspect 1024: about equal: 14 x 768 (99 M against 101 M"),
        ("--window-pattern SSSL --depth 8", "512 512 512 2048 512 512 512 2048"),
        ("--depth 24 --batch-size 16 --nproc 8", "16 seq x 2,048 tok x 8 GPUs x accum 4 = 1,048,576 tokens/step"),
        ("--max-steps 100 --warmup-steps 40", "W402 warm-up is 40 % of the run"),
        ("--depth 24 --vocab-size 32768 --target-param-data-ratio 8", "5,568 steps"),
        (
            "--depth 24 --vocab-size 32768 --target-param-data-ratio 8 --save-steps 100",
            "55 checkpoints x 10.0 GB = 548 GB; kept: 4 = 40 GB",
        ),
        ("--target-flops 1e19 --vocab-size 65536", "depth 18 (ratio 11.5; d16 20.8, d20 6.7)"),
        ("--target-flops 1e19", "stops train (exit 4)         no shards here: picollm shard fineweb-edu"),
        ("--depth 18 --vocab-size 65536 --learning-rate 0.04", "Muon  0.04 -> peak 0.05657 (x1.414 batch)"),
        ("--depth 12 --device cuda --bf16", "cuda, bf16, compiled"),
        ("--depth 24 --fp8", "fp8: 145 of 157 linear layers (12 skipped: smaller than 128); evaluation in bf16"),
        ("--depth 24 --fp8=auto", "cuda, bf16 + fp8, compiled"),
        ("--depth 12 --fp8=auto", "cuda, bf16, compiled"),
        ("--depth 12 --fp8", "W303 depth 12 is usually slower with fp8"),
    ],
)
def test_a_plan_shows(capsys: pytest.CaptureFixture[str], words: str, seen: str) -> None:
    code, out, err = run(capsys, *words.split())
    assert (code, err) == (0, "")
    assert seen in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--target-flops 1e18 --max-steps 10", "--target-flops"),
        ("--target-flops 1e18 --max-steps 10", "--max-steps"),
        ("--depth 4 --layers 6", "--depth 4 and --layers 6"),
        ("--depth 4 --depth 6", "--depth 4 and --depth 6"),
        ("--depth 4 --bf16 --dtype fp32", "--dtype fp32 and --bf16 bf16"),
        ("--heads 8 --head-dim 128 --hidden-size 768 --depth 12", "8 heads x 128 = 1024, but hidden size is 768"),
        ("--vocab-size 65537", "65,536"),
        ("--gpu a100 --fp8", "E302 fp8 needs an NVIDIA SM 89+ GPU; a100 is SM 80"),
        ("--compile off --fp8", "E302 fp8 needs --compile"),
        ("--max-seq-len 1000 --fp8", "E302 fp8 needs rows of a multiple of 16 tokens"),
        ("--target-param-data-ratio 8", "a ratio needs a size"),
        ("--depth 0", "at least 1"),
        ("--depth 4 --window-pattern SXL", "SXL"),
        ("--stop-after soon --depth 4", "soon"),
        ("--gpu abacus --depth 4", "abacus"),
    ],
)
def test_a_contradiction_exits_2_and_says_which(capsys: pytest.CaptureFixture[str], words: str, said: str) -> None:
    code, out, err = run(capsys, *words.split()) if "--gpu" not in words else _plain(capsys, words)
    assert (code, out) == (2, "")
    assert said in err


def _plain(capsys: pytest.CaptureFixture[str], words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as done:
        main(["plan", *words.split()])
    out, err = capsys.readouterr()
    assert isinstance(done.value.code, int)
    return done.value.code, out, err


def test_json_holds_the_fields_of_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, *["--target-flops", "1e19", "--vocab-size", "65536", "--json"])
    plan = json.loads(out)
    assert plan["schema"] == "picollm.plan/1"
    expected = {"depth": 18, "width": 1152, "heads": 9, "vocab_size": 65_536, "seq_len": 2048}
    expected |= {"window_pattern": "SSSL", "steps": 3963, "tokens": 4_155_506_688, "tokens_per_step": 2**20}  # type: ignore[dict-item]
    assert {name: plan[name] for name in expected} == expected
    assert plan["params"]["total"] == 1_117_127_665
    assert {"flops", "memory", "disk", "warnings", "command"} <= plan.keys()
    assert plan["command"] == "picollm train --vocab-size 65536 --target-flops 1e19"


def test_the_command_of_several_gpus_is_torchruns(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--gpu", "h100:8", "--target-flops", "1e19"])
    assert "torchrun --standalone --nproc-per-node 8 -m picollm.train --target-flops 1e19" in capsys.readouterr().out


def test_flag_beats_environment_beats_file_beats_preset(
    capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = home / "run.toml"
    file.write_text("[model]\nlayers = 6\n[effort]\nmax-steps = 7\n[tokens]\nblock_size = 64\n")
    monkeypatch.setenv("PICOLLM_NUM_ITERATIONS", "8")
    words = f"--preset tiny --config {file} --seed 3 --json".split()
    plan = json.loads(run(capsys, *words)[1])
    assert (plan["depth"], plan["steps"], plan["seq_len"], plan["window_pattern"]) == (6, 8, 64, "L")
    assert plan["origins"]["num_iterations"] == "env PICOLLM_NUM_ITERATIONS"
    assert plan["origins"]["window_pattern"] == "preset tiny"
    assert plan["origins"]["seed"] == "flag --seed"
    assert plan["command"] == ("picollm train --preset tiny --seed 3 --max-seq-len 64 --depth 6 --num-iterations 8")


def test_an_unknown_key_in_a_file_is_a_usage_error(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    file = home / "run.toml"
    file.write_text("[model]\nlayres = 6\n")
    code, _, err = run(capsys, "--config", str(file))
    assert code == 2
    assert "layres" in err


def test_strict_turns_warnings_into_exit_3(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "--depth", "4", "--vocab-size", "65536", "--strict")
    assert code == 3
    assert "W201" in err


def test_help_shows_every_knob_in_its_layer(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    titles = ("WHAT THE MODEL SEES", "HOW TEXT BECOMES TOKENS", "HOW LARGE THE MODEL IS", "HOW HARD AND HOW LONG")
    headings = [out.index(f"{i}  {title}") for i, title in enumerate(titles, 1)]
    assert headings == sorted(headings)
    for knob in KNOBS:
        assert knob.flag in out


def test_a_plan_needs_no_torch(tmp_path: Path) -> None:
    code = """
import sys
from picollm.cli.main import main
try:
    main("plan --depth 12".split())
except SystemExit as done:
    assert done.code == 0
assert "torch" not in sys.modules
"""
    env = {"PYTHONPATH": str(REPOSITORY / "python"), "PICOLLM_HOME": str(tmp_path), "PATH": ""}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, stdout=subprocess.DEVNULL)


@pytest.mark.row("K36")
@pytest.mark.parametrize("command", ["plan", "train"])
def test_fp8_on_a_cpu_is_refused_and_auto_leaves_it_out(capsys: pytest.CaptureFixture[str], command: str) -> None:
    words = [command, "--device", "cpu", "--peak-flops", "1e10", "--depth", "24"]
    with pytest.raises(SystemExit) as refused:
        main([*words, "--fp8"])
    assert refused.value.code == 2
    assert "E302 fp8 needs an NVIDIA SM 89+ GPU; this is cpu" in capsys.readouterr().err
    with pytest.raises(SystemExit) as planned:
        main([*words, "--fp8=auto", *(["--dry-run"] if command == "train" else [])])
    assert planned.value.code == 0
    assert "cpu, fp32, eager" in capsys.readouterr().out


def test_the_word_auto_for_the_rows_is_the_ledger_and_the_flag_wherever_it_is_said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--depth", "12", "--json"]
    _, unsaid, _ = run(capsys, *words)
    _, flag, _ = run(capsys, *words, "--batch-size", "auto")
    monkeypatch.setenv("PICOLLM_DEVICE_BATCH_SIZE", "auto")
    _, variable, _ = run(capsys, *words)
    monkeypatch.delenv("PICOLLM_DEVICE_BATCH_SIZE")
    (tmp_path / "c.toml").write_text('[effort]\ndevice_batch_size = "auto"\n')
    _, file, _ = run(capsys, *words, "--config", str(tmp_path / "c.toml"))
    for found in map(json.loads, (flag, variable, file)):
        assert found["device_batch"] == json.loads(unsaid)["device_batch"]
        assert "--auto-batch" in found["command"]
    assert json.loads(flag)["origins"]["auto_batch"] == "flag --batch-size auto"
    assert run(capsys, *words, "--device-batch-size", "many")[0] == 2
