"""The states of all global random generators as JSON, and back. Training draws from none of them; a guest might."""

import random
from typing import Any

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Start every global generator from `seed`, so that what they hold is a function of the run."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def capture() -> dict[str, Any]:
    """States of Python's, numpy's and torch's generators; words in hex."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda = torch.cuda.get_rng_state_all() if started else []
    return {
        "python": {
            "version": version,
            "words": np.asarray(words, dtype="<u4").tobytes().hex(),
            "gauss": None if gauss is None else float(gauss).hex(),
        },
        "numpy": {
            "kind": kind,
            "keys": np.asarray(keys, dtype="<u4").tobytes().hex(),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached).hex(),
        },
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
        "cuda": [state.numpy().tobytes().hex() for state in cuda],
    }


def restore(states: dict[str, Any]) -> None:
    """Inverse of `capture`. States of devices that are not here are passed over."""
    python, legacy = states["python"], states["numpy"]
    words = tuple(int(word) for word in np.frombuffer(bytes.fromhex(python["words"]), dtype="<u4"))
    gauss = None if python["gauss"] is None else float.fromhex(python["gauss"])
    random.setstate((python["version"], words, gauss))
    keys = np.frombuffer(bytes.fromhex(legacy["keys"]), dtype="<u4")
    cached = float.fromhex(legacy["cached"])
    np.random.set_state((legacy["kind"], keys, legacy["position"], legacy["has_gauss"], cached))
    torch.set_rng_state(tensor_of(states["torch"]))
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([tensor_of(state) for state in states["cuda"]])


def tensor_of(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
