"""Named starting points: values for knobs, weaker than anything a person says.

All three say L: in rows this short windows save little. A preset's vocabulary yields to the shards'.
"""

from collections.abc import Mapping

PRESETS: Mapping[str, Mapping[str, object]] = {
    "tiny": {
        "depth": 2, "aspect_ratio": 32.0, "head_dim": 32, "max_seq_len": 128, "window_pattern": "L",
        "total_batch_size": 1024, "num_iterations": 50, "vocab_size": 512,
    },
    "quickstart": {
        "depth": 4, "aspect_ratio": 32.0, "head_dim": 32, "max_seq_len": 256, "window_pattern": "L",
        "total_batch_size": 4096, "max_minutes": 2.8, "vocab_size": 4096,
    },
    "laptop": {
        "depth": 6, "head_dim": 64, "max_seq_len": 512, "window_pattern": "L",
        "total_batch_size": 16_384, "max_minutes": 30.0, "vocab_size": 8192,
    },
}  # fmt: skip
