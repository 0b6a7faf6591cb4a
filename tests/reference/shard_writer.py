"""The plain twin of the shard writer: `picollm-shards/1` with NumPy, one field after the other."""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from xxhash import xxh3_64_intdigest

HEADER_BYTES = 1024
MAGIC = {"uint16": (20240520, 1), "uint32": (20240801, 7)}
Document = Sequence[int]  # ids, BOS first


def header(
    ids: np.ndarray, documents: int, docs: bytes, *, vocab_size: int, bos: int, text_bytes: int, segment: int,
    tokenizer: bytes,
) -> bytes:  # fmt: skip
    """The 1,024 bytes before `ids` (uint16 or uint32)."""
    words = np.zeros(256, "<u4")
    words[0:5] = [*MAGIC[ids.dtype.name], len(ids), int.from_bytes(b"PICO", "little"), 1]
    words[5] = 1  # documents begin with BOS
    words[6:8] = [documents & 0xFFFFFFFF, documents >> 32]
    words[8:12] = [vocab_size, bos, 0xFFFFFFFF, int(ids.max())]
    words[12:14] = [text_bytes & 0xFFFFFFFF, text_bytes >> 32]
    words[14:16] = [segment, 0]
    words[16:24] = np.frombuffer(tokenizer, "<u4")
    words[24:32] = np.frombuffer(blake3(str(segment).encode()).digest(), "<u4")
    words[32:40] = np.frombuffer(blake3(ids.tobytes()).digest(), "<u4")
    words[40:48] = np.frombuffer(blake3(docs).digest(), "<u4")
    words[254:256] = np.frombuffer(xxh3_64_intdigest(words[:254].tobytes()).to_bytes(8, "little"), "<u4")
    return words.tobytes()


def write_shard(
    folder: Path, split: str, segment: int, documents: Sequence[Document], *, vocab_size: int, bos: int, dtype: str,
    tokenizer: bytes,
) -> dict[str, Any]:  # fmt: skip
    """One `.bin` and its `.docs.npy`. Returns its line of the manifest."""
    name = f"{split}_{segment:06}"
    ids = np.concatenate([np.asarray(document, dtype) for document in documents])
    docs_path = folder / f"{name}.docs.npy"
    np.save(docs_path, np.cumsum([0, *map(len, documents)]).astype("<u4"))
    docs, text_bytes = docs_path.read_bytes(), 4 * len(ids)
    head = header(
        ids, len(documents), docs, vocab_size=vocab_size, bos=bos, text_bytes=text_bytes, segment=segment,
        tokenizer=tokenizer,
    )  # fmt: skip
    (folder / f"{name}.bin").write_bytes(head + ids.tobytes())
    return {
        "blake3": blake3(ids.tobytes()).hexdigest(),
        "blake3_docs": blake3(docs).hexdigest(),
        "max_id": int(ids.max()),
        "n_docs": len(documents),
        "n_tokens": len(ids),
        "name": name,
        "split": split,
        "utf8_bytes": text_bytes,
    }


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def write_manifest(folder: Path, named: dict[str, Any]) -> str:
    """`manifest.json` and its copy under `manifests/`. Returns the fingerprint."""
    fingerprint = blake3(canonical(named)).hexdigest()
    bytes_ = canonical(named | {"fingerprint": fingerprint})
    (folder / "manifests").mkdir(exist_ok=True)
    (folder / "manifests" / f"{fingerprint[:16]}.json").write_bytes(bytes_)
    (folder / "manifest.json").write_bytes(bytes_)
    return fingerprint


def write_set(
    folder: Path, splits: dict[str, Sequence[Sequence[Document]]], *, vocab_size: int = 65_536, bos: int = 65_527,
    dtype: str = "uint16", tokenizer: bytes = b"{}",
) -> Path:  # fmt: skip
    """A shard set of these documents, by split and file. Returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_bytes(tokenizer)  # the loader looks at its hash only
    digest = sha256(tokenizer).digest()
    entries = {
        split: [
            write_shard(
                folder, split, segment, documents, vocab_size=vocab_size, bos=bos, dtype=dtype, tokenizer=digest
            )
            for segment, documents in enumerate(files)
        ]
        for split, files in splits.items()
    }
    write_manifest(
        folder,
        {
            "dtype": dtype,
            "format": "picollm-shards/1",
            "splits": {"train": [], "val": [], **entries},
            "tokenizer": {"bos": bos, "eos": None, "sha256": digest.hex(), "vocab_size": vocab_size},
        },
    )
    return folder
