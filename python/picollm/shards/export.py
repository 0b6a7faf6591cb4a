"""A finished set for other readers: index files beside the shards, no token copied."""

from pathlib import Path

import numpy as np

from picollm.runtime import durable
from picollm.shards.manifest import HEADER_BYTES, ITEM_BYTES, SPLITS, ShardSet

# Megatron-LM's index file, github.com/NVIDIA/Megatron-LM megatron/core/datasets/indexed_dataset.py
MEGATRON_MAGIC = b"MMIDIDX\x00\x00"
MEGATRON_VERSION = 1
MEGATRON_CODES = {"uint16": 8, "uint32": 4}


def megatron_index(path: Path, dtype: str) -> bytes:
    """The `.idx` that makes Megatron-LM read `path` (.bin) as it lies, one sequence per document.

    34 bytes of header, then int32 lengths in tokens, int64 byte offsets, int64 document bounds 0 … documents.
    """
    ends = np.load(path.with_suffix(".docs.npy"), allow_pickle=False).astype("<i8")
    documents = len(ends) - 1
    head = MEGATRON_MAGIC + np.array([MEGATRON_VERSION], "<u8").tobytes() + bytes([MEGATRON_CODES[dtype]])
    head += np.array([documents, documents + 1], "<u8").tobytes()
    pointers = HEADER_BYTES + ITEM_BYTES[dtype] * ends[:-1]
    bounds = np.arange(documents + 1, dtype="<i8")
    return bytes(head + np.diff(ends).astype("<i4").tobytes() + pointers.tobytes() + bounds.tobytes())


def export_megatron(folder: Path) -> dict[str, list[str]]:
    """Write an `.idx` beside every `.bin`, copying no token. Returns the blend list of each split: tokens and prefix.

    Megatron's own `merge_datasets` must not be used on these files: it concatenates whole `.bin` files, headers too.
    """
    shards = ShardSet.open(folder)
    blend: dict[str, list[str]] = {}
    for split in SPLITS:
        blend[split] = []
        for file, path in zip(shards.splits[split], shards.files(split), strict=True):
            durable.write(path.with_suffix(".idx"), megatron_index(path, shards.dtype))
            blend[split] += [str(file.n_tokens), str(path.with_suffix("").absolute())]
    return blend
