"""The K rows that no test shows yet, wholly or in part, and what they wait for. `python -m tests.unit.cli.waiting`."""

import re
from pathlib import Path

ROWS = tuple(f"K{number}" for number in range(1, 51))
MARK = re.compile(r'mark\.row\(((?:"[A-Z]+[0-9]+"(?:, )?)+)\)')

WAITING = {
    "K1": "`train --dataset-name` of a corpus of the Hub whose shards exist; `data info` is tested",
    "K4": "the membership of validation after the files have doubled; splits are tested",
    "K6": "a column of lists of turns given to `data peek --text-column`; metadata and empty rows are tested",
    "K5": "--val-shards and `eval --final`: the evaluation issue (C)",
    "K11": "tiktoken and tokenizers on 1 MB through the command: the tokenizer's issue",
    "K22": "RUN/train.log of a run started by the command: issue A's flow test",
    "K23": "two processes against one through the command; `runs compare` itself is tested",
    "K25": "`train --learning-rate 50` through the command; the guard itself is tested",
    "K31": "at most keep + 1 folders after a run; the price in `plan` is tested",
    "K32": "40 steps against 20 + 20 through the command; the checkpoint itself is tested",
    "K33": "signals through the command: issue A's flow test",
    "K38": "train without Triton on a GPU; the finding of `doctor` is tested",
    "K39": "`speedrun`: after the first release",
    "K46": "`chat --compare`: the chat issue (F)",
    "K48": "W403, following the gap between training and validation: the trainer",
    "K49": "out of memory while training, --auto-batch: a GPU; the plan's refusal is tested",
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
