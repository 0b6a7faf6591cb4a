"""Write docs/knobs.md and docs/run.schema.json from the knob registry, or check that they are current."""

import sys
from pathlib import Path

from picollm.plan.document import knobs_page, schema_text

ROOT = Path(__file__).resolve().parents[1]
PAGES = {ROOT / "docs" / "knobs.md": knobs_page, ROOT / "docs" / "run.schema.json": schema_text}


def main() -> int:
    stale = [path for path, text in PAGES.items() if not path.exists() or path.read_text() != text()]
    if "--check" not in sys.argv:
        for path in stale:
            path.write_text(PAGES[path]())
        return 0
    for path in stale:
        print(f"{path.relative_to(ROOT)} differs from the knob registry: run `just knobs`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
