"""HumanEval: how a model is asked, what of its reply is run, and that the right functions and no others pass."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.unit.evals.test_chats import NAMES, Bytes
from tests.unit.train.base_run import base_run

from picollm.cli.eval import command
from picollm.errors import CheckError, MissingError, UsageError
from picollm.evals.humaneval import CodeProblem, asked, code_problems, trial
from picollm.evals.sandbox import Sandbox

HEAD = 'import math\n\n\ndef area(radius: float) -> float:\n    """Of a disc.\n    >>> area(0)\n    0.0\n    """\n'
TEST = "def check(candidate):\n    assert candidate(0) == 0\n    assert abs(candidate(2) - math.pi * 4) < 1e-9\n"
BODY = "    return math.pi * radius ** 2\n"
DISC = CodeProblem("Made/0", HEAD, "area", TEST)
needs_bwrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="no bubblewrap here")


def row(problem: CodeProblem, solution: str = BODY) -> str:
    """A line of the published form."""
    return json.dumps({"task_id": problem.name, "prompt": problem.prompt, "entry_point": problem.entry_point,
                       "test": problem.test, "canonical_solution": solution})  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "HumanEval.jsonl.gz"
    path.write_bytes(gzip.compress(f"{row(DISC)}\n{row(DISC)}\n".encode()))
    return path


REPLIES = {
    "the body alone": BODY,
    "a body and what a base model goes on with": f"{BODY}\n\ndef other():\n    return 1\n",
    "the whole function": f"def area(radius):\n{BODY}",
    "a fenced block with words around it": f"Sure!\n```python\n{HEAD}{BODY}```\nIt multiplies.",
    "a fenced body": f"```python\n{BODY}\n```",
    "a block that is never closed": f"```py\ndef area(radius):\n{BODY}",
}


@needs_bwrap
@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
def test_a_right_function_passes_however_it_is_replied(reply: str) -> None:
    assert Sandbox().run(trial(DISC, reply)).passed


@needs_bwrap
@pytest.mark.parametrize(
    "reply", ["", "    pass\n", "    return 0.0\n", "I cannot.", "```python\n```", "def area(): ("]
)
def test_anything_else_fails(reply: str) -> None:
    assert not Sandbox().run(trial(DISC, reply)).passed


def test_a_chat_model_gets_a_question_and_a_base_model_the_head() -> None:
    question = asked(DISC, Bytes(), answers=True)
    assert question[1] == 256 + NAMES.index("<|user_start|>")
    assert question[-1] == 256 + NAMES.index("<|assistant_start|>")
    assert HEAD.strip() in bytes(id for id in question if id < 256).decode()
    assert asked(DISC, Bytes(), answers=False) == (256, *HEAD.encode())


@pytest.mark.parametrize("line", ["{}", row(CodeProblem("x", "no head", "area", TEST)), '{"task_id": 3}'])
def test_a_line_that_is_no_problem_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "HumanEval.jsonl").write_text(row(DISC) + "\n" + line + "\n")
    with pytest.raises(CheckError, match="line 2"):
        code_problems(tmp_path / "HumanEval.jsonl", None)


@pytest.mark.slow
@needs_bwrap
def test_published_solutions_pass_and_empty_bodies_do_not(shared: Path) -> None:
    path = shared / "data" / "humaneval" / "HumanEval.jsonl.gz"
    found, whole = code_problems(path, None)
    assert whole == 164
    solutions = [json.loads(line)["canonical_solution"] for line in gzip.decompress(path.read_bytes()).splitlines()]
    sandbox = Sandbox()
    for problem, solution in list(zip(found, solutions, strict=True))[::8]:
        assert sandbox.run(trial(problem, solution)).passed, problem.name
        assert not sandbox.run(trial(problem, "    pass\n")).passed, problem.name


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    base_run(folder)
    return folder


def evaluate(runs: Path, *said: str) -> Result:
    return CliRunner().invoke(command, ["base", "--runs-dir", str(runs), *said], catch_exceptions=False)


@needs_bwrap
def test_the_command_runs_it_in_the_sandbox_and_keeps_the_result(runs: Path, file: Path) -> None:
    (file.parent / "HumanEval.jsonl.gz").write_bytes(
        gzip.compress(row(CodeProblem("m", "def f():\n", "f", TEST)).encode())
    )
    done = evaluate(runs, "--task", "humaneval", "--data", str(file.parent), "--allow-code-exec", "--json")
    part = json.loads(done.stdout)["chat"]["tasks"]["humaneval"]
    assert (part["n"], part["of"], part["right"], part["baseline"]) == (1, 1, 0, 0.0)
    assert (runs / "base" / "evals" / "chat.json").is_file()


def test_the_command_runs_nothing_without_consent_or_without_a_sandbox(
    runs: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = ("--task", "humaneval", "--data", str(file.parent))
    with pytest.raises(UsageError, match="runs code that the model writes"):
        evaluate(runs, *said)
    monkeypatch.setenv("PATH", str(file.parent))
    with pytest.raises(MissingError, match="no sandbox here"):
        evaluate(runs, *said, "--allow-code-exec")
