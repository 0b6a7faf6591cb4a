import subprocess
import sys
import tomllib
from pathlib import Path

from picollm.plan import config
from picollm.plan.document import knobs_page, toml_schema
from picollm.plan.knobs import KNOBS
from picollm.plan.plot import lr_curve
from picollm.plan.request import TrainRequest
from picollm.plan.resolve import resolve
from picollm.runtime.machine import Machine

ROOT = Path(__file__).resolve().parents[3]


def test_the_pages_made_from_the_registry_are_current() -> None:
    env = {"PYTHONPATH": str(ROOT / "python")}
    subprocess.run([sys.executable, ROOT / "dev" / "knobs.py", "--check"], check=True, env=env)


def test_every_spelling_of_every_knob_is_on_the_page() -> None:
    page = knobs_page()
    for knob in KNOBS:
        assert f"### `{knob.flag}`" in page
        assert all(f"`{flag}`" in page for flag in knob.flags)
        assert knob.variable in page


def test_what_a_run_writes_obeys_the_schema() -> None:
    said = {"depth": 4, "max_seq_len": 512, "value_embeds": False, "learning_rate": 0.04, "save_every": "15min"}
    tables = toml_schema()["properties"]
    written = tomllib.loads(config.write(said))
    assert written
    for table, values in written.items():
        assert values.keys() <= tables[table]["properties"].keys()


def test_the_curve_rises_stays_and_falls() -> None:
    machine = Machine.gpus("h100", 1, cores=4)
    plan = resolve(TrainRequest(depth=4, num_iterations=1000, warmup_steps=200), machine, None)
    lines = lr_curve(plan).splitlines()
    top, bottom = lines[1], lines[8]
    assert top.index("█") > bottom.index("█")  # warm-up
    assert len(top.rstrip()) < len(bottom.rstrip())  # warm-down
    assert "up to step 200, flat to step 350" in lines[-1]
    short = resolve(TrainRequest(depth=4, num_iterations=1), machine, None)
    assert "1 steps" in lr_curve(short)
