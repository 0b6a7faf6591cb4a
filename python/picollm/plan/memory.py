"""What a step needs in memory on one device, and what a run leaves on disk. Formulas, no measurement.

Static bytes are exact (training specification 2.2). Activations are a linear model (2.3) whose coefficients are
counts of tensors kept for backward; they are estimates until fitted on the device at hand.
"""

from dataclasses import dataclass

from picollm.model.config import ModelConfig
from picollm.model.counts import checkpoint_bytes, count, optimizer_bytes, weight_bytes

BLOCK_TENSORS = 17  # kept per block, in units of B·T·C: norms, q, k, v, attention out, 4C twice, block inputs
STREAM_TENSORS = 4  # kept once: x0, the half-depth stream, before and after the last norm
MUON_STACK = 64 * 2**20  # elements that are orthogonalised at a time
MUON_COPIES = 4  # X, A = XXᵀ, its polynomial, the product
FIXED = {"cuda": 2**30, "mps": 2**30, "cpu": 2**29}  # context and libraries; judgement
USABLE = 0.92  # of a device's memory: the rest is fragments and other people's
LOGIT_COPIES = 2 + 4 + 4  # bytes per logit of a chunk: bf16 product, fp32 soft cap, fp32 gradient
CPU_MICRO_TOKENS = 8192  # rows past this leave the caches and gain nothing; judgement


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the peak of a step, and what the device has (0: unknown)."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    workspace: int
    available: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits + self.workspace

    @property
    def fits(self) -> bool:
        return self.available == 0 or self.total <= USABLE * self.available


def table_bytes(device: str) -> int:
    """Bytes per entry of token and value tables: bf16 on CUDA, fp32 elsewhere."""
    return 2 if device == "cuda" else 4


def logits_chunk(vocab: int) -> int:
    """Tokens whose logits exist at a time."""
    return min(8192, max(512, 1 << ((2**28 // (4 * vocab)).bit_length() - 1)))


def memory_of(config: ModelConfig, rows: int, ranks: int, device: str, dtype: str, available: int) -> Memory:
    """The ledger for `rows` per micro-step on each of `ranks` devices."""
    width, vocab, tokens = config.width, config.padded_vocab, rows * config.seq_len
    size = 2 if dtype == "bf16" else 4
    counts = count(config)
    weights = weight_bytes(config, table_bytes(device))
    chunk = min(logits_chunk(vocab), tokens)
    return Memory(
        weights=weights,
        gradients=weights,
        optimizer=optimizer_bytes(config, table_bytes(device)) // ranks,
        activations=tokens * width * size * (config.depth * BLOCK_TENSORS + STREAM_TENSORS),
        logits=chunk * vocab * LOGIT_COPIES + 4 * vocab * width + size * tokens * width,
        workspace=FIXED[device] + 4 * MUON_COPIES * min(MUON_STACK, counts.matrices // max(1, ranks)),
        available=available,
    )


def largest_rows(config: ModelConfig, ranks: int, device: str, dtype: str, available: int) -> int:
    """The most rows per micro-step that fit, 0 if not even one does."""

    def fits(rows: int) -> bool:
        return memory_of(config, rows, ranks, device, dtype, available).fits

    if not fits(1):
        return 0
    ceiling = max(1, CPU_MICRO_TOKENS // config.seq_len) if device == "cpu" else 1024
    low, high = 1, ceiling
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


@dataclass(frozen=True)
class Disk:
    """Bytes: shards the run reads and those present, one checkpoint, how many are written and kept."""

    shards_needed: int
    shards_present: int
    checkpoint: int
    written: int
    kept: int


def disk_of(config: ModelConfig, device: str, tokens: int, epochs: float, present: int, saves: int, keep: int) -> Disk:
    """`saves` checkpoints over the run; the best is kept beside the newest `keep`."""
    needed = 2 * round(tokens / max(1.0, epochs))
    one = checkpoint_bytes(config, table_bytes(device))
    return Disk(needed, 2 * present, one, saves, min(saves, keep + 1))
