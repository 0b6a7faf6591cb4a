"""Write constraints.txt from `[tool.uv] constraint-dependencies`, or check that it is current.

pip users pass `-c constraints.txt`; uv reads pyproject.toml itself. One list, two readers.
"""

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "constraints.txt"


def wanted() -> str:
    pins = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["constraint-dependencies"]
    return "# Written by dev/constraints.py from pyproject.toml; edit it there.\n" + "".join(f"{pin}\n" for pin in pins)


def main() -> int:
    if "--check" in sys.argv:
        if TARGET.read_text() == wanted():
            return 0
        print("constraints.txt differs from pyproject.toml: run `just constraints`", file=sys.stderr)
        return 1
    TARGET.write_text(wanted())
    return 0


if __name__ == "__main__":
    sys.exit(main())
