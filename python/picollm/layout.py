"""Where things lie under one root. Paths only: nothing here reads or writes."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """`PICOLLM_HOME`, else the current folder, and the three folders under it (decision 1)."""

    root: Path

    @classmethod
    def from_env(cls) -> "Layout":
        return cls(Path(os.environ.get("PICOLLM_HOME") or "."))

    @property
    def tokenizers(self) -> Path:
        return self.root / "tokenizers"

    @property
    def shards(self) -> Path:
        return self.root / "shards"

    @property
    def runs(self) -> Path:
        return self.root / "runs"


def cache_dir() -> Path:
    """`PICOLLM_CACHE`, else `picollm` in the user's cache folder: downloads and probe verdicts."""
    if said := os.environ.get("PICOLLM_CACHE"):
        return Path(said)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "picollm"
