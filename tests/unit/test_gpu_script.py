"""dev/gpu.py walks its whole road on a CPU, so that a session with a GPU loses no minute to it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_gpu_script_measures_a_tiny_shape_and_says_what_cannot_run(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "python"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(REPOSITORY / "dev" / "gpu.py"), "--tiny", "--device", "cpu"]
    found = {}
    for only in ("whole-loss", "fp8"):
        out = tmp_path / f"{only}.json"
        done = subprocess.run([*command, "--only", only, "--out", str(out)], env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr
        (found[only],) = json.loads(out.read_text())["results"]
    whole = found["whole-loss"]
    assert whole["tokens_per_second"] > 0
    assert 0 < whole["mfu_causal"] <= whole["mfu"]
    assert whole["peak_bytes"] > 0 < whole["planned_bytes"]
    assert len(whole["step_ms"]) == 2
    assert "E302 fp8 needs an NVIDIA SM 89+ GPU; this is cpu" in found["fp8"]["cannot"]
