"""HumanEval: a function's head and docstring in, its body out, judged by running it (arXiv 2107.03374).

The file is the published one, as .jsonl or .jsonl.gz: {task_id, prompt, canonical_solution, test, entry_point}
(openai/openai_humaneval). One greedy reply per problem, so the share of passes is pass@1.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from picollm.conversation import BOS, Conversation, Encoder, render_prompt
from picollm.errors import CheckError
from picollm.evals.chats import read_lines
from picollm.evals.sandbox import Trial

FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
NEXT_STATEMENT = re.compile(r"\n(?=[^\s#)\]}])")  # a line that begins in column 0: the body is over
ASK = "Complete this Python function. Reply with the whole function and nothing else."


@dataclass(frozen=True)
class CodeProblem:
    """`prompt` ends with the docstring of the function `entry_point`; `test` defines `check(candidate)`."""

    name: str
    prompt: str
    entry_point: str
    test: str


def code_problems(path: Path, most: int | None) -> tuple[list[CodeProblem], int]:
    """The first `most` problems of a file, and how many it holds. Raises CheckError."""
    found = []
    for number, item in read_lines(path):
        fields = [item.get(name) for name in ("task_id", "prompt", "entry_point", "test")]
        if not all(isinstance(field, str) for field in fields):
            raise CheckError(f"{path} line {number}: not a problem: task_id, prompt, entry_point, test")
        problem = CodeProblem(*map(str, fields))
        if f"def {problem.entry_point}(" not in problem.prompt or "def check(" not in problem.test:
            raise CheckError(f"{path} line {number}: no def {problem.entry_point}( to complete, or no def check(")
        found.append(problem)
    return found[:most], len(found)


def asked(problem: CodeProblem, encoder: Encoder, answers: bool) -> tuple[int, ...]:
    """The ids before the reply: a question for a model that answers, the bare head for one that continues text."""
    if answers:
        return render_prompt(Conversation.of(f"{ASK}\n\n```python\n{problem.prompt.rstrip()}\n```"), encoder)
    return (encoder.specials[BOS], *encoder.encode(problem.prompt))


def trial(problem: CodeProblem, reply: str) -> Trial:
    """What is run: the first fenced block of the reply, or all of it; as a body where it is not the whole function."""
    block = FENCED.search(reply)
    code = block[1] if block else reply
    if f"def {problem.entry_point}(" in code:
        program: tuple[str, ...] = (problem.prompt, code)
    else:
        program = (problem.prompt + NEXT_STATEMENT.split(code, maxsplit=1)[0] + "\n",)
    return Trial(program, problem.entry_point, problem.prompt, problem.test)
