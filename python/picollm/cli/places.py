"""Which machine a plan is for, which tokenizer is meant. No torch: the trainer asks torch what it really has."""

import contextlib
import json
import shutil
import time
from pathlib import Path
from platform import node

from picollm.errors import MissingError, PicoError, UsageError
from picollm.layout import Layout, cache_dir
from picollm.plan.facts import DataFacts
from picollm.plan.request import TrainRequest
from picollm.runtime import durable
from picollm.runtime.machine import Machine, nvidia_smi, parse_gpu, usable_cores
from picollm.shards.manifest import MANIFEST

RATE_FILE = "matmul-rate.json"
RATE_SECONDS = 7 * 86_400


def machine_for(request: TrainRequest) -> Machine:
    """The machine that was named by --gpu, else this one as its driver describes it."""
    machine = _named_or_here(request)
    return machine.with_peak(request.peak_flops, "given") if request.peak_flops else machine


def _named_or_here(request: TrainRequest) -> Machine:
    if request.gpu not in (None, "auto"):
        assert request.gpu is not None
        name, count = parse_gpu(request.gpu)
        return Machine.gpus(name, max(count, request.nproc or 1))
    gpus = None if request.device in ("cpu", "mps") else nvidia_smi()
    if gpus is None and request.gpu == "auto":
        raise UsageError("--gpu auto: no NVIDIA GPU here", hint="--gpu h100, or leave it out")
    if gpus is not None:
        return gpus
    return Machine.cpu(request.peak_flops or matmul_rate())


def matmul_rate() -> float:
    """FLOP/s of this machine's cores: the best seen within a week, of which the cache folder keeps the record.

    A busy machine measures too little, once by a factor of 14; a moment later it can only correct that upwards.
    """
    from picollm.runtime.gemm import cpu_matmul_rate

    file = cache_dir() / RATE_FILE
    cores = usable_cores()
    rate = cpu_matmul_rate()
    try:
        kept = json.loads(file.read_bytes())
        same = (
            kept["cores"] == cores and kept["machine"] == node() and 0 <= time.time() - kept["measured"] < RATE_SECONDS
        )
        if same and kept["flops"] >= rate:
            return float(kept["flops"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # nothing kept, or not by us
    with contextlib.suppress(OSError, PicoError):  # a cache that cannot be written is no cache
        file.parent.mkdir(parents=True, exist_ok=True)
        durable.write_json(file, {"flops": rate, "cores": cores, "machine": node(), "measured": time.time()})
    return rate


def tokenizer_file(said: str, layout: Layout) -> Path:
    """`tokenizer.json` of a tokenizer given by path or name. Raises MissingError."""
    if Path(said).name == "tokenizer.json" and Path(said).is_file():
        return Path(said)
    for folder in (Path(said), layout.tokenizers / said):
        if (folder / "tokenizer.json").is_file():
            return folder / "tokenizer.json"
    raise MissingError(f"no tokenizer {said!r}", hint="picollm tok train --vocab-size 65536")


def find_tokenizer(said: str | None, layout: Layout) -> Path:
    """`tokenizer.json` of the tokenizer that is meant (decision 4): the named one, the only one, the newest.

    Raises MissingError with the command that makes one.
    """
    if said is not None:
        return tokenizer_file(said, layout)
    files = list(layout.tokenizers.glob("*/tokenizer.json"))
    if not files:
        raise MissingError(f"no tokenizer yet in {layout.tokenizers}", hint="picollm tok train --vocab-size 65536")
    return max(files, key=lambda path: (path.stat().st_mtime, path.parent.name))


def tokenizer_vocab(request: TrainRequest, layout: Layout) -> int | None:
    """Vocabulary of the tokenizer that is meant where there are no shards, or None without one."""
    try:
        file = find_tokenizer(request.tokenizer, layout)
    except MissingError:
        if request.tokenizer is not None:
            raise
        return None
    from picollm.tok.tokenizer import Tokenizer

    return int(Tokenizer.load(file).vocab_size)


def measured_bytes_per_token(layout: Layout) -> dict[int, float]:
    """Bytes of training text per token, by vocabulary, of every shard set here; of several, the newest."""
    manifests = sorted(layout.shards.glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime)
    if not manifests:
        return {}
    from picollm.shards.manifest import ShardSet

    found: dict[int, float] = {}
    for manifest in manifests:
        with contextlib.suppress(PicoError):  # a damaged set has its own error, when it is used
            facts = DataFacts.of(ShardSet.open(manifest.parent))
            if facts.train_tokens and facts.train_bytes:
                found[facts.vocab_size] = facts.train_bytes / facts.train_tokens
    return found


def free_bytes(folder: Path) -> int:
    """Bytes free where `folder` is or would be made."""
    absolute = folder.absolute()
    return shutil.disk_usage(next(path for path in (absolute, *absolute.parents) if path.exists())).free
