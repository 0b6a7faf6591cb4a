"""The plan of the house: reading order is import order, importing does nothing, no way in through a pickle."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "python" / "picollm"
ROOMS = [
    "errors",
    "layout",
    "runtime",
    "corpus",
    "tok",
    "conversation",
    "shards",
    "loader",
    "model",
    "plan",
    "optim",
    "ckpt",
    "infer",
    "evals",
    "train",
    "chat",
    "export",
    "report",
    "serve",
    "cli",
]
TORCHLESS = ("errors", "layout", "corpus", "tok", "conversation", "shards", "plan", "report")
TORCHLESS_FILES = ("runtime/machine.py", "runtime/durable.py", "model/config.py", "model/counts.py")
UNPICKLERS = ("pickle", "marshal", "shelve", "joblib", "dill")


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    if relative.name == "__main__.py":
        return "cli"  # a door
    return relative.parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> list[tuple[str, int]]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import at line {node.lineno}"
            found.append((node.module or "", node.lineno))
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_rooms_to_its_left(path: Path) -> None:
    here = room_of(path)
    if here == "__init__":
        return
    for name, line in imports(ast.parse(path.read_text())):
        parts = name.split(".")
        if parts[0] != "picollm" or len(parts) < 2 or parts[1] == "_rustbpe":
            continue
        assert ROOMS.index(parts[1]) <= ROOMS.index(here), f"{path}:{line}: {here} reaches right to {parts[1]}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_command_line_imports_inside_functions(path: Path) -> None:
    if room_of(path) == "cli":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inner = [name for name, _ in imports(node)]
            assert not inner, f"{path}:{node.lineno}: {node.name} imports {inner}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_that_unpickles_is_imported(path: Path) -> None:
    for name, line in imports(ast.parse(path.read_text())):
        assert name.split(".")[0] not in UNPICKLERS, f"{path}:{line}"
    assert "torch.load" not in path.read_text()


def test_every_init_is_empty_but_the_first() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        if path.parent != PACKAGE:
            assert path.read_text() == "", path


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_before_the_model_know_no_torch(path: Path) -> None:
    relative = path.relative_to(PACKAGE)
    if room_of(path) in TORCHLESS or str(relative) in TORCHLESS_FILES:
        names = [name.split(".")[0] for name, _ in imports(ast.parse(path.read_text()))]
        assert "torch" not in names


@pytest.mark.parametrize("command", ["import picollm", "from picollm.cli.main import main; main(['--help'])"])
def test_help_and_import_load_neither_torch_nor_datasets(command: str) -> None:
    code = f"""
import sys
try:
    {command}
except SystemExit as done:
    assert not done.code
heavy = {{"torch", "datasets", "numpy", "pyarrow"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, env={"PYTHONPATH": str(PACKAGE.parent)}
    )
