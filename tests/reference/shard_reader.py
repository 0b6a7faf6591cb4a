"""The plain twin of reading and verifying shards: struct, NumPy, blake3 and xxhash, one check after the other."""

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from blake3 import blake3
from xxhash import xxh3_64_intdigest

DTYPES = {(20240520, 1): np.dtype("<u2"), (20240801, 7): np.dtype("<u4")}
NO_EOS = 0xFFFFFFFF


@dataclass(frozen=True)
class Shard:
    """One `.bin` with its sidecar, every promise asserted."""

    tokens: np.ndarray
    ends: np.ndarray
    vocab_size: int
    bos: int
    text_bytes: int
    segment: int
    part: int
    tokenizer: str
    segment_id: str

    def documents(self) -> list[list[int]]:
        """Ids of each document, without BOS."""
        return [self.tokens[start + 1 : end].tolist() for start, end in zip(self.ends, self.ends[1:], strict=False)]


def read(path: Path) -> Shard:
    data = path.read_bytes()
    words = struct.unpack("<256I", data[:1024])
    dtype = DTYPES[words[0], words[1]]
    tokens = np.frombuffer(data, dtype, offset=1024)
    docs = path.with_suffix(".docs.npy")
    ends = np.load(docs, allow_pickle=False)
    n, documents = words[2], words[6] + (words[7] << 32)
    assert len(data) == 1024 + dtype.itemsize * n
    assert words[3:6] == (int.from_bytes(b"PICO", "little"), 1, 1)
    assert words[10] == NO_EOS
    assert not any(words[48:254])
    assert xxh3_64_intdigest(data[:1016]) == words[254] + (words[255] << 32)
    assert data[128:160] == blake3(data[1024:]).digest()
    assert data[160:192] == blake3(docs.read_bytes()).digest()
    assert (ends.dtype, ends.shape) == (np.dtype("<u4"), (documents + 1,))
    assert (int(ends[0]), int(ends[-1])) == (0, n)
    assert (np.diff(ends.astype(np.int64)) > 0).all()
    assert np.array_equal(np.flatnonzero(tokens == words[9]), ends[:-1])
    assert int(tokens.max()) == words[11] < words[8]
    return Shard(
        tokens=tokens,
        ends=ends,
        vocab_size=words[8],
        bos=words[9],
        text_bytes=words[12] + (words[13] << 32),
        segment=words[14],
        part=words[15],
        tokenizer=data[64:96].hex(),
        segment_id=data[96:128].hex(),
    )


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def read_set(folder: Path) -> dict[str, list[Shard]]:
    """Every shard that the manifest names, by split; manifest, records and files agree."""
    data = (folder / "manifest.json").read_bytes()
    manifest = json.loads(data)
    assert data == canonical(manifest)
    named = {key: manifest[key] for key in ("dtype", "format", "splits", "tokenizer")}
    fingerprint = blake3(canonical(named)).hexdigest()
    assert manifest["fingerprint"] == fingerprint
    assert (folder / "manifests" / f"{fingerprint[:16]}.json").read_bytes() == data
    assert manifest["plan"] == f"blake3:{blake3((folder / 'plan.json').read_bytes()).hexdigest()}"
    found: dict[str, list[Shard]] = {"train": [], "val": []}
    for split, files in manifest["splits"].items():
        for file in files:
            shard = read(folder / f"{file['name']}.bin")
            record = json.loads((folder / f"segment_{shard.segment:06}.json").read_bytes())
            assert file in record["files"]
            assert record["segment"]["id"] == f"blake3:{shard.segment_id}"
            assert file["split"] == split
            assert (file["n_tokens"], file["n_docs"]) == (len(shard.tokens), len(shard.ends) - 1)
            assert (file["utf8_bytes"], file["max_id"]) == (shard.text_bytes, int(shard.tokens.max()))
            assert shard.tokenizer == manifest["tokenizer"]["sha256"]
            found[split].append(shard)
    return found
