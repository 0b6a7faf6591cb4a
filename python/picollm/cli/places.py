"""Which machine and which shards a plan is for. No torch: the trainer asks torch what it really has."""

import hashlib
from pathlib import Path

from picollm.errors import MissingError, TokenizerMismatch, UsageError
from picollm.layout import Layout
from picollm.plan.facts import DataFacts
from picollm.plan.request import TrainRequest
from picollm.runtime.machine import Machine, nvidia_smi, parse_gpu

MANIFEST = "manifest.json"


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
    from picollm.runtime.gemm import cpu_matmul_rate

    return Machine.cpu(request.peak_flops or cpu_matmul_rate())


def find_shards(request: TrainRequest, layout: Layout) -> Path | None:
    """The shard set that is meant (decision 4): by path or name, by corpus, the only one, the newest; else None."""
    said = request.shards or request.dataset_name
    if said is not None:
        corpus = Path(said).name
        candidates = [Path(said)] if request.shards else []
        candidates += [layout.shards / said, layout.shards / corpus]
        return next((path for path in candidates if (path / MANIFEST).is_file()), None)
    finished = list(layout.shards.glob(f"*/{MANIFEST}"))
    return max(finished, key=lambda path: (path.stat().st_mtime, path.parent.name)).parent if finished else None


def facts_for(request: TrainRequest, layout: Layout) -> DataFacts | None:
    """The facts of those shards, or None. Raises TokenizerMismatch where --tokenizer is not the shards' own."""
    folder = find_shards(request, layout)
    if folder is None:
        return None
    from picollm.shards.manifest import ShardSet

    facts = DataFacts.of(ShardSet.open(folder))
    if request.tokenizer is not None:
        found = hashlib.sha256(tokenizer_file(request.tokenizer, layout).read_bytes()).hexdigest()
        if found != facts.tokenizer_sha256:
            raise TokenizerMismatch(
                f"tokenizer {request.tokenizer} is {found[:12]}, the shards {facts.name} were made with "
                f"{facts.tokenizer_sha256[:12]}",
                hint=f"leave --tokenizer out, or picollm shard SOURCE --tokenizer {request.tokenizer} --out DIR",
            )
    return facts


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
