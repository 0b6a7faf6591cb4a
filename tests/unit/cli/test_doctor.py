import importlib.metadata
import json
import types
from pathlib import Path
from typing import Any

import pytest

from picollm.cli import checks
from picollm.cli.colour import paint, wanted
from picollm.cli.main import main
from picollm.layout import Layout


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as done:
        main(["doctor", *words])
    out, err = capsys.readouterr()
    assert isinstance(done.value.code, int)
    return done.value.code, out, err


def installed(folder: Path, name: str, *files: str) -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))


def fake_torch(cuda: tuple[int, int] | None, built: str | None = "13.0", mps: bool = False) -> Any:
    """What torch would say on another machine: a stand-in for the library, not for code of ours."""
    major, minor = cuda or (0, 0)
    properties = types.SimpleNamespace(name="NVIDIA H100", total_memory=80 * 10**9, major=major, minor=minor)
    return types.SimpleNamespace(
        __version__="2.13.0",
        version=types.SimpleNamespace(cuda=built),
        cuda=types.SimpleNamespace(
            is_available=lambda: cuda is not None,
            device_count=lambda: 8,
            get_device_properties=lambda _: properties,
        ),
        backends=types.SimpleNamespace(mps=types.SimpleNamespace(is_available=lambda: mps)),
    )


def test_another_distribution_under_our_import_name_is_a_failure_with_both_pip_lines(tmp_path: Path) -> None:
    installed(tmp_path, "picollm-train", "picollm/__init__.py", "picollm/errors.py")
    found = checks.installation(importlib.metadata.distributions(path=[str(tmp_path)]), tmp_path / "picollm")
    assert (found.state, found.facts["owners"]) == ("ok", {"picollm-train": "1.0"})
    installed(tmp_path, "picollm", "picollm/__init__.py")
    found = checks.installation(importlib.metadata.distributions(path=[str(tmp_path)]), tmp_path / "picollm")
    assert found.state == "fail"
    assert found.fix == "pip uninstall -y picollm picollm-train && pip install picollm-train"


@pytest.mark.row("K37")
def test_the_device_comes_with_its_reason_and_what_it_is_fit_for() -> None:
    here = checks.device(fake_torch(None), "auto").facts
    assert {name: here[name] for name in ("type", "reason", "fit")} == {
        "type": "cpu", "reason": "no CUDA, no MPS", "fit": "correctness and tiny demos",
    }  # fmt: skip
    assert checks.device(fake_torch((9, 0)), "auto").facts["type"] == "cuda"
    assert checks.device(fake_torch(None, mps=True), None).facts["type"] == "mps"
    assert checks.device(fake_torch((9, 0)), "cpu").facts["reason"] == "asked for"


@pytest.mark.row("K34")
def test_the_compute_dtype_says_why() -> None:
    on_cpu = checks.device(fake_torch(None), "auto")
    assert checks.dtype(on_cpu, {}).text == "fp32 (no CUDA)"
    assert checks.dtype(on_cpu, {"PICOLLM_DTYPE": "bf16"}).text == "bf16 (set by PICOLLM_DTYPE)"
    assert checks.dtype(on_cpu, {"PICOLLM_DTYPE": "int8"}).state == "fail"
    assert checks.dtype(checks.device(fake_torch((9, 0)), None), {}).text == "bf16 (CUDA SM 90)"
    assert checks.dtype(checks.device(fake_torch((7, 5)), None), {}).text == "fp32 (CUDA SM 75)"


@pytest.mark.row("K38")
def test_without_a_compiler_a_gpu_runs_eagerly_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None)
    found = checks.compiler("cuda")
    assert found.state == "warn"
    assert found.text == "W304 torch.compile unavailable (no Triton): running eager"
    assert checks.compiler("cpu").state == "ok"


def test_the_hub_is_not_asked_unless_told_to_and_the_token_never_shown() -> None:
    found = checks.hub({"HF_TOKEN": "secret", "HF_HOME": "/data"}, online=False)
    assert "secret" not in json.dumps(found.to_json())
    assert (found.facts["HF_TOKEN"], found.facts["HF_HOME"], found.facts["reached"]) == ("set", "/data", None)
    assert "offline" in checks.hub({"HF_HUB_OFFLINE": "1"}, online=True).text
    unreached = checks.hub({"HF_ENDPOINT": "http://127.0.0.1:9"}, online=True)
    assert (unreached.state, unreached.facts["reached"]) == ("warn", False)
    assert checks.hub({"HF_ENDPOINT": "file:///etc/passwd"}, online=True).state == "warn"


def test_too_little_disk_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "LEAST_DISK", 2**80)
    assert checks.disk(Layout(tmp_path / "not" / "yet")).state == "warn"


@pytest.mark.slow
@pytest.mark.row("K37")
def test_doctor_answers_in_text_and_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PICOLLM_DTYPE", raising=False)
    code, out, _ = run(capsys)
    assert code in (0, 3)  # 3: a source tree without the compiled half
    assert "device:" in out
    found = json.loads(run(capsys, "--json")[1])
    assert found["schema"] == "picollm.doctor/1"
    assert {"install", "device", "compute_dtype", "compile", "disk", "hub"} <= found.keys()
    if found["device"]["type"] == "cpu":
        code, _, err = run(capsys, "--device", "cuda")
        assert code == 2
        assert "pip install torch" in err


def test_colour_follows_the_usual_variables() -> None:
    assert wanted({"NO_COLOR": "1", "CLICOLOR_FORCE": "1"}) is False
    assert wanted({"CLICOLOR_FORCE": "1"}) is True
    assert wanted({"TERM": "dumb"}) is False
    assert wanted({"TERM": "xterm", "NO_COLOR": "", "CLICOLOR_FORCE": "0"}) is None
    assert paint("W201 and no") == "\x1b[33m\x1b[1mW201\x1b[0m and no"


def test_colour_reaches_a_pipe_only_when_forced(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("NO_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(variable, raising=False)
    words = ["plan", "--gpu", "h100", "--depth", "4", "--vocab-size", "65536"]
    with pytest.raises(SystemExit):
        main(words)
    assert "\x1b" not in capsys.readouterr().out
    monkeypatch.setenv("CLICOLOR_FORCE", "1")
    with pytest.raises(SystemExit):
        main(words)
    assert "\x1b[" in capsys.readouterr().out
