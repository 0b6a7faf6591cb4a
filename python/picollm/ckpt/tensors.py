"""Tensors in safetensors files: written whole, opened lazily, names and shapes known before a byte is loaded."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from picollm.ckpt.schema import damaged
from picollm.errors import CheckpointError
from picollm.runtime import durable

MAX_HEADER = 16 << 20
DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16,
          "I64": torch.int64, "I32": torch.int32, "U8": torch.uint8, "BOOL": torch.bool}  # fmt: skip


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write and sync. Raises CheckpointError on a value that is not finite, OSError from the disk."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{name} holds values that are not finite; nothing was saved")
    # The library refuses tensors that share memory; a state dict holds views, so each becomes its own bytes.
    plain = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()}
    try:
        save_file(plain, path)
    except SafetensorError as error:
        raise OSError(None, str(error)) from error
    durable.sync_file(path)


class Tensors(Mapping[str, Tensor]):
    """All tensors of several files by name; each is read when asked for. A name in two files is an error."""

    def __init__(self, paths: list[Path]) -> None:
        self.files: list[Any] = []
        self.place: dict[str, Any] = {}
        try:
            for path in paths:
                self.add(path)
        except BaseException:
            self.close()
            raise

    def add(self, path: Path) -> None:
        check_header(path)
        try:
            opened: Any = safe_open(path, framework="pt", device="cpu")
            opened.__enter__()
        except (SafetensorError, OSError) as error:
            raise damaged(path, str(error)) from None
        self.files.append(opened)
        for name in opened.keys():  # noqa: SIM118  (not a dict)
            if name in self.place:
                raise damaged(path, f"{name} occurs twice")
            self.place[name] = opened

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.place[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype | None:
        """None for a dtype that picollm never writes."""
        return DTYPES.get(self.place[name].get_slice(name).get_dtype())

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self.place[name].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.place))

    def __len__(self) -> int:
        return len(self.place)

    def close(self) -> None:
        for opened in self.files:
            opened.__exit__(None, None, None)
        self.files, self.place = [], {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_header(path: Path) -> None:
    """What the library does not check: the header's size and its first byte. Refuses pickles by content."""
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError as error:
        raise durable.failure(path, "read", error) from error
    if len(head) < 9 or int.from_bytes(head[:8], "little") > MAX_HEADER or head[8:9] != b"{":
        raise damaged(path, "not a safetensors file, or its header is over 16 MiB")
