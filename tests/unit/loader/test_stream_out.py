"""The forms of a batch: ids as stored or widened, document boundaries, masks between documents. All say the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.reference.rows import epoch_rows
from tests.reference.shard_writer import write_set
from tests.unit.loader.toy import BOS, TRAIN, T, ranks, read

from picollm.errors import ShardCorruptError
from picollm.loader.stream import Stream


@pytest.mark.parametrize("pack", ["bestfit", "concat"])
@pytest.mark.parametrize("mask_boundaries", [False, True])
@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_ids_as_stored_become_the_rows_that_rust_widens(
    tmp_path: Path, pack: str, mask_boundaries: bool, dtype: str
) -> None:
    shards = write_set(tmp_path, {"train": [TRAIN]}, dtype=dtype)
    options = {"pack": pack, "mask_boundaries": mask_boundaries, "batch_size": 3, "rows_per_step": 7, "epochs": 1}
    wide, stored = (read(ranks(shards, 2, out=out, **options)) for out in ("i32i64", "u16"))
    np.testing.assert_array_equal(stored, wide)
    assert ((wide[:, T:] == BOS).any(), len(wide) > 200) == (not mask_boundaries, True)


def test_a_boundary_mask_takes_the_first_token_of_documents_and_no_other_target(shards: Path) -> None:
    plain, masked = (read(ranks(shards, 1, mask_boundaries=mask)) for mask in (False, True))
    np.testing.assert_array_equal(masked, np.where(plain == BOS, np.where(np.arange(2 * T) < T, BOS, -100), plain))


@pytest.mark.parametrize(("pack", "max_docs"), [("bestfit", 3), ("bestfit", 16), ("concat", 16)])
def test_cu_seqlens_are_where_the_pieces_of_each_row_begin(shards: Path, pack: str, max_docs: int) -> None:
    options = {"seq_len": T, "window": 64, "pack": pack, "max_docs": max_docs, "seed": 1337, "shuffle": "global"}
    rows = 5
    with Stream(shards, **options, batch_size=rows, rows_per_step=rows, epochs=1, cu_seqlens=True) as stream:
        fingerprint = bytes.fromhex(stream.fingerprints[0])
        expected = list(epoch_rows(TRAIN, fingerprint=fingerprint, bos=BOS, epoch=0, **options))
        lengths = set()
        for first in range(0, len(expected), rows):
            (batch,) = stream.next_step()
            assert batch.cu_seqlens is not None
            assert batch.documents is not None
            lengths.add(len(batch.cu_seqlens))
            starts, documents = boundaries(expected[first : first + rows], rows)
            assert batch.cu_seqlens.tolist() == starts + [rows * T] * (len(batch.cu_seqlens) - len(starts))
            np.testing.assert_array_equal(batch.documents.numpy(), documents)
    assert len(lengths) == 1, "one shape, so that nothing is compiled twice"


def boundaries(pieces: list[list[list[int]]], rows: int) -> tuple[list[int], np.ndarray]:
    """Starts of all documents in B·T places, and the number of the document at each; what is left of a row is one."""
    starts = []
    for row in range(rows):
        at = 0
        for piece in pieces[row] if row < len(pieces) else []:
            starts += [row * T + at] * (at < T)
            at += len(piece)
        starts += [row * T + at] * (at < T)
    places = np.arange(rows * T)
    return starts, (np.searchsorted(starts, places, side="right") - 1).reshape(rows, T)


def test_no_boundaries_are_handed_out_unless_asked_for(shards: Path) -> None:
    (stream,) = ranks(shards, 1)
    (batch,) = stream.next_step()
    assert batch.cu_seqlens is batch.documents is None
    assert (batch.inputs.dtype, batch.targets.dtype) == (torch.int32, torch.int64)


@pytest.mark.row("S9")
@pytest.mark.parametrize(("verify", "refused"), [("sizes", []), ("first", [0]), ("all", [0, 1])])
def test_a_changed_token_is_found_before_the_first_row_where_contents_are_verified(
    tmp_path: Path, verify: Any, refused: list[int]
) -> None:
    for number in (0, 1):
        folder = write_set(tmp_path / str(number), {"train": [TRAIN[:3], TRAIN[3:6]]})
        path = folder / f"train_{number:06}.bin"
        data = bytearray(path.read_bytes())
        data[1024 + 5] ^= 1
        path.write_bytes(data)
        if number in refused:
            with pytest.raises(ShardCorruptError, match=path.name):
                ranks(folder, 1, verify=verify)
        else:
            ranks(folder, 1, verify=verify)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_batches_on_a_gpu_equal_those_in_memory(shards: Path) -> None:
    options = {"batch_size": 3, "rows_per_step": 7, "cu_seqlens": True, "mask_boundaries": True}
    here, there = ranks(shards, 1, **options)[0], ranks(shards, 1, device="cuda", **options)[0]
    for _ in range(40):
        for one, other in zip(here.next_step(), there.next_step(), strict=True):
            for name in ("inputs", "targets", "documents", "cu_seqlens"):
                assert torch.equal(getattr(one, name), getattr(other, name).cpu())
