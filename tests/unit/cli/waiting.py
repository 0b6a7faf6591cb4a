"""The K rows that no test shows yet, wholly or in part, and what they wait for. `python -m tests.unit.cli.waiting`."""

import re
from pathlib import Path

ROWS = tuple(f"K{number}" for number in range(1, 51))
MARK = re.compile(r'mark\.row\(((?:"[A-Z]+[0-9]+"(?:, )?)+)\)')

WAITING = {
    "K25": "a rate of 50 stays finite under the soft cap (loss 10 nats), so nothing is skipped; 1e30 shows E501",
    "K38": "train without Triton: a GPU; without a C++ compiler on a CPU it is tested",
    "K39": "`speedrun`: after the first release",
    "K49": "CUDA's own refusal: a GPU; going on with half the rows (--auto-batch) once the system has refused: the "
    "loader's new thread was refused as well in 3 of 13 tries; the refusal itself is tested",
}


def shown() -> dict[str, list[str]]:
    """Row → the test files that carry its mark."""
    found: dict[str, list[str]] = {}
    root = Path(__file__).resolve().parents[2]
    for path in sorted(root.rglob("test_*.py")):
        for marks in MARK.findall(path.read_text()):
            for row in re.findall(r'"([A-Z]+[0-9]+)"', marks):
                if str(path.relative_to(root)) not in found.setdefault(row, []):
                    found[row].append(str(path.relative_to(root)))
    return found


def table() -> str:
    """row · tests · state."""
    tests = shown()
    lines = []
    for row in ROWS:
        files, missing = tests.get(row, []), WAITING.get(row, "")
        state = "waits: " + missing if not files else "in part: " + missing if missing else "shown"
        lines.append(f"{row:<4} {', '.join(files) or '-':<70} {state}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
