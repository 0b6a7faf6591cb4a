"""What a step needs in memory on one device, and what a run leaves on disk. Formulas, no measurement.

Static bytes are exact (training specification 2.2). Activations are a linear model (2.3) whose coefficients are
counts of tensors kept for backward; they are estimates until fitted on the device at hand.
"""

from dataclasses import dataclass

from picollm.model.config import ModelConfig
from picollm.model.counts import checkpoint_bytes, count, optimizer_bytes, weight_bytes

# Kept for backward, in units of B·T·C. Eager: fitted with MemTracker on CPU at depths 2 to 8 (torch 2.13, November
# 2026). Compiled: a count of norms, q, k, v, attention out, 4C twice and block inputs, not yet measured on CUDA.
BLOCK_TENSORS = {False: 18.0, True: 17.0}
# Compiled in eight bits: the squared relu of 4C is quantised again in backward and not kept. Counted in what a graph
# compiled for a CPU in bf16 saves (depth 4, T 256: 35.6 bytes a layer, 27.1 in eight bits), not yet measured on CUDA.
EIGHT_BIT_TENSORS = 12.8
RECOMPUTED_TENSORS = 2.0  # of a block that backward runs again: its input and the stream before it; fitted likewise
STREAM_TENSORS = 3  # once: x0, the half-depth stream, before the last norm
BACKWARD_TENSORS = 6  # alive beside them while the last MLP is taken back; fitted likewise
LOGIT_BYTES = {"fp32": 4 + 4, "bf16": 2 + 4 + 4 + 2, "fp64": 8 + 8}  # per logit of a chunk: product, soft cap, gradient
CHUNK_BYTES, CHUNK_LEAST, CHUNK_MOST, CHUNK_CPU = 2**28, 512, 8192, 1024  # as model/loss.py has them; a test compares
MUON_STACK = 64 * 2**20  # elements that are orthogonalised at a time
MUON_COPIES = 4  # X, A = XXᵀ, its polynomial, the product
# Context and libraries. CPU: resident after imports and a step, CPU build of torch 2.13 (223 MiB of it mapped files).
FIXED = {"cuda": 2**30, "mps": 2**30, "cpu": 580 * 2**20}
# Holes that the C library's heap keeps between tensors, over the activations: an aligned block never fits the hole
# that one of its size left. glibc 2.36, depths 2 to 6: 0.6 to 1.2, and 2.6 at activations of 39 MiB (dev/LOG.md
# 2026-11-22). Caching allocators of GPUs have few: they are in USABLE.
HEAP_HOLES = {"cuda": 0.0, "mps": 0.0, "cpu": 1.0}
USABLE = 0.92  # of a device's memory: the rest is fragments and other people's
CPU_MICRO_TOKENS = 8192  # rows past this leave the caches and gain nothing; judgement


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the peak of a step, and what the device has (0: unknown).

    The parts are the ledger's; `holes` is what the heap cannot use again. `measured`: the peak of a process that took a
    few steps; 0 where none did.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    workspace: int
    available: int
    holes: int = 0
    measured: int = 0

    @property
    def total(self) -> int:
        lines = self.weights + self.gradients + self.optimizer + self.activations + self.logits + self.workspace
        return lines + self.holes

    @property
    def peak(self) -> int:
        """As measured, else as reckoned."""
        return self.measured or self.total

    @property
    def fits(self) -> bool:
        return self.available == 0 or self.peak <= USABLE * self.available


def table_bytes(device: str) -> int:
    """Bytes per entry of token and value tables: bf16 on CUDA, fp32 elsewhere."""
    return 2 if device == "cuda" else 4


def logits_chunk(vocab: int, device: str) -> int:
    """Tokens whose logits exist at a time."""
    if device == "cpu":
        return CHUNK_CPU
    power = 1 << ((CHUNK_BYTES // (4 * vocab)).bit_length() - 1)
    return min(CHUNK_MOST, max(CHUNK_LEAST, power))


@dataclass(frozen=True)
class Place:
    """Where a model must fit: `ranks` devices of `memory` bytes each (0: unknown), computing in `dtype`."""

    device: str
    dtype: str
    compile: bool
    memory: int
    ranks: int
    recompute: bool = False
    eight_bit: bool = False


def memory_of(config: ModelConfig, rows: int, place: Place) -> Memory:
    """The ledger for `rows` per micro-step. The head, the backward pass and Muon have their peaks one after another."""
    width, vocab, tokens = config.width, config.padded_vocab, rows * config.seq_len
    size = {"bf16": 2, "fp32": 4, "fp64": 8}[place.dtype]
    weights = weight_bytes(config, table_bytes(place.device))
    unit = tokens * width * size
    block = EIGHT_BIT_TENSORS if place.eight_bit else BLOCK_TENSORS[place.compile]
    blocks = config.depth * RECOMPUTED_TENSORS + block if place.recompute else config.depth * block
    kept = round(unit * (blocks + STREAM_TENSORS))
    chunk = min(logits_chunk(config.vocab_size, place.device), tokens)
    in_place = place.device == "cpu" and place.dtype == "fp32" and not place.compile  # no second copy for gradients
    entry = LOGIT_BYTES[place.dtype] // (2 if in_place else 1)
    logits = chunk * vocab * entry + 4 * vocab * width + unit
    muon = 4 * MUON_COPIES * min(MUON_STACK, count(config).matrices // place.ranks)
    return Memory(
        weights=weights,
        gradients=weights,
        optimizer=optimizer_bytes(config, table_bytes(place.device)) // place.ranks,
        activations=kept,
        logits=logits,
        workspace=FIXED[place.device] + max(0, BACKWARD_TENSORS * unit - logits, muon - kept - logits),
        available=place.memory,
        holes=round(HEAP_HOLES[place.device] * kept),
    )


def largest_rows(config: ModelConfig, place: Place) -> int:
    """The most rows per micro-step that fit, 0 if not even one does."""

    def fits(rows: int) -> bool:
        return memory_of(config, rows, place).fits

    if not fits(1):
        return 0
    ceiling = max(1, CPU_MICRO_TOKENS // config.seq_len) if place.device == "cpu" else 1024
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
