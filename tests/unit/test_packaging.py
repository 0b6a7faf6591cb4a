"""The project's own files agree with each other."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_pip_constraints_are_those_of_pyproject() -> None:
    subprocess.run([sys.executable, ROOT / "dev" / "constraints.py", "--check"], check=True)


def test_the_package_and_the_crates_carry_one_version() -> None:
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text())
    namespace: dict[str, str] = {}
    exec((ROOT / "python" / "picollm" / "__init__.py").read_text(), namespace)  # noqa: S102
    assert namespace["__version__"] == cargo["workspace"]["package"]["version"]


def test_the_metadata_sets_bounds_and_never_pins() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "torch>=2.11" in project["dependencies"]
    assert not [requirement for requirement in project["dependencies"] if "==" in requirement]
