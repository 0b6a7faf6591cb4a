"""Commands whose output must not drift, and the files that hold it.

`python -m tests.unit.cli.golden` writes tests/golden/cli afresh; read the diff before you commit it.
"""

import contextlib
import io
import os
import shlex
import tempfile
from pathlib import Path

from picollm.cli.main import main

FOLDER = Path(__file__).resolve().parents[2] / "golden" / "cli"
GPU = "--gpu h100 --workers 4"  # nothing of the machine at hand may show
NOTE = "--batch-size 8 --nproc 8 --grad-accum 16 --block-size 1024 --max-steps 5000"  # the course note's worked example

EXAMPLES = {
    "help": "--help",
    "plan-help": f"plan {GPU} --target-flops 1e19 --vocab-size 65536 --help",
    "plan-1e19": "plan --target-flops 1e19 --vocab-size 65536 --gpu h100:8 --price-per-gpu-hour 3 --workers 4",
    "plan-depth-12": f"plan {GPU} --depth 12 --price-per-gpu-hour 3",
    "plan-note": f"plan {GPU} {NOTE}",
    "plan-plot": f"plan {GPU} --max-steps 100 --warmup-steps 40 --plot",
    "plan-1e19-json": f"plan {GPU} --target-flops 1e19 --vocab-size 65536 --json",
    "explain-warmup-steps": f"explain warmup-steps {GPU}",
    "explain-vocab-size-at": f"explain vocab-size --at 4096,32768,65536 --depth 4 {GPU}",
    "explain-W201": f"explain W201 --depth 4 --vocab-size 65536 {GPU}",
    "explain-loss": f"explain loss --preset quickstart {GPU}",
    "explain-dtype": f"explain dtype {GPU}",
    "explain-defaults": f"explain --defaults {GPU}",
    "diff-vocabulary": f"diff '--depth 12 {GPU}' '--depth 12 --vocab-size 65536 {GPU}'",
    "diff-depth-json": f"diff '--depth 12 {GPU}' '--depth 14 {GPU}' --json",
}


def output(command: str) -> str:
    """What the command prints, in an empty home, 120 columns wide, with no variable of ours set."""
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("PICOLLM_")}
    os.environ["COLUMNS"] = "120"
    try:
        with tempfile.TemporaryDirectory() as home, contextlib.redirect_stdout(io.StringIO()) as text:
            os.environ["PICOLLM_HOME"] = os.environ["PICOLLM_CACHE"] = home
            with contextlib.suppress(SystemExit):
                main(shlex.split(command))
        return text.getvalue()
    finally:
        for name in ("PICOLLM_HOME", "PICOLLM_CACHE", "COLUMNS"):
            os.environ.pop(name, None)
        os.environ.update(kept)


def rewrite() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, command in EXAMPLES.items():
        (FOLDER / f"{name}.txt").write_text(output(command))


if __name__ == "__main__":
    rewrite()
