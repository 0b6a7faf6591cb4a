"""Known corpora as plain data. Layouts and column names as the repositories' own pages give them (autumn 2026)."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Entry:
    """A corpus with a short name. `configs`: name → glob of files in `repo`. `bytes_per_token`: of the files, for
    sizing shards only. `val_ppm`: documents per million held out for validation."""

    alias: str
    repo: str
    configs: dict[str, str] = field(default_factory=dict)
    default_config: str | None = None
    text_column: str = "text"
    bytes_per_token: float = 2.5
    val_ppm: int = 2_000
    licence: str = "see the repository"
    note: str = ""
    less: str = ""  # what to run for a small and fair sample, and what it fetches
    kind: Literal["text", "chat"] = "text"


FINEWEB_CONFIGS = {
    "sample-10BT": "sample/10BT/*.parquet",
    "sample-100BT": "sample/100BT/*.parquet",
    "sample-350BT": "sample/350BT/*.parquet",
    "default": "data/*/*.parquet",
}

ENTRIES = (
    Entry(
        "fineweb-edu",
        "HuggingFaceFW/fineweb-edu",
        FINEWEB_CONFIGS,
        "sample-10BT",
        bytes_per_token=2.85,  # 28.5 GB of sample-10BT over 10 B tokens
        licence="ODC-By 1.0",
        note="14 files in crawl order, about 28.5 GB, 9,672,101 documents",
        less="picollm shard fineweb-edu-shuffled --tokens 100M fetches about 0.2 GB, shuffled as a whole",
    ),
    Entry(
        "fineweb",
        "HuggingFaceFW/fineweb",
        FINEWEB_CONFIGS,
        "sample-10BT",
        bytes_per_token=2.85,
        licence="ODC-By 1.0",
    ),
    Entry(
        "fineweb-edu-shuffled",
        "karpathy/fineweb-edu-100b-shuffle",
        {"default": "shard_*.parquet"},
        "default",
        licence="ODC-By 1.0",
        note="files of about 100 MB, shuffled as a whole: a prefix is a fair sample",
    ),
    Entry(
        "climbmix",
        "karpathy/climbmix-400b-shuffle",
        {"default": "shard_*.parquet"},
        "default",
        licence="that of nvidia/Nemotron-ClimbMix: check it before commercial use",
    ),
    Entry("tinystories", "roneneldan/TinyStories", {"default": "data/train-*.parquet"}, "default"),
    Entry(
        "wikitext",
        "Salesforce/wikitext",
        {
            name: f"{name}/train-*.parquet"
            for name in ("wikitext-2-raw-v1", "wikitext-2-v1", "wikitext-103-raw-v1", "wikitext-103-v1")
        },
    ),
    Entry(
        "everyday-conversations",
        "HuggingFaceTB/everyday-conversations-llama3.1-2k",
        {"default": "data/train_sft-*.parquet"},
        "default",
        text_column="messages",
        licence="Apache-2.0",
        kind="chat",
    ),
)
CATALOG = {entry.alias: entry for entry in ENTRIES}
STDLIB = "stdlib"  # the one alias that needs no repository
ALIASES = (STDLIB, *CATALOG)
