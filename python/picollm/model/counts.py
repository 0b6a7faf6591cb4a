"""Parameters, FLOPs and bytes as formulas of a config, tested on the real model. No torch."""

from dataclasses import dataclass

from picollm.model.config import ModelConfig

EIGHT_BIT_MULTIPLE = 16  # of inner and outer sizes: what the tensor cores' 8-bit matmul takes
EIGHT_BIT_LEAST = 128  # smaller matmuls cost more to prepare than they save (training specification 5)
CACHE_BLOCK = 128  # slots of a rolling cache come in whole blocks


@dataclass(frozen=True)
class Counts:
    """Parameters by kind; `smear_gate` holds weights, `scalars` everything of one number per layer or model."""

    matrices: int
    head: int
    embed: int
    value_embeds: int
    scalars: int
    smear_gate: int

    @property
    def total(self) -> int:
        return self.matrices + self.head + self.tables + self.scalars + self.smear_gate

    @property
    def scaling(self) -> int:
        """P: the parameters that horizons are multiples of."""
        return self.matrices + self.head

    @property
    def tables(self) -> int:
        """Parameters that are looked up and never multiplied."""
        return self.embed + self.value_embeds

    @property
    def embedding_share(self) -> float:
        """The part of all parameters that has a row per id: tables and head."""
        return (self.tables + self.head) / self.total


def count(config: ModelConfig) -> Counts:
    """Parameters of the model, by kind."""
    C, L, wide = config.width, config.depth, config.kv_heads * config.head_dim
    n_ve = len(config.value_layers)
    block = 2 * C * config.heads * config.head_dim + 2 * C * wide + 8 * C * C
    return Counts(
        matrices=L * block + config.ve_gate_channels * config.kv_heads * n_ve,
        head=config.padded_vocab * C,
        embed=config.padded_vocab * C,
        value_embeds=n_ve * config.padded_vocab * wide,
        scalars=2 * L * config.resid_scales + config.backout + config.smear,
        smear_gate=config.smear_channels * config.smear,
    )


def eight_bit_eligible(outputs: int, inputs: int) -> bool:
    """Whether a linear layer of this shape gains from eight bits."""
    whole = outputs % EIGHT_BIT_MULTIPLE == 0 and inputs % EIGHT_BIT_MULTIPLE == 0
    return whole and min(outputs, inputs) >= EIGHT_BIT_LEAST


def eight_bit_layers(config: ModelConfig) -> tuple[int, int]:
    """Linear layers that can train in eight bits, and all there are."""
    C, wide = config.width, config.kv_heads * config.head_dim
    block = [(C, C), (wide, C), (wide, C), (C, C), (4 * C, C), (C, 4 * C)]
    gates = [(config.kv_heads, config.ve_gate_channels)] * len(config.value_layers)
    gates += [(1, config.smear_channels)] * config.smear
    layers = [*block * config.depth, *gates, (config.padded_vocab, C)]
    return sum(eight_bit_eligible(*layer) for layer in layers), len(layers)


def _keys(config: ModelConfig, context: int) -> list[int]:
    """W of each layer for rows of `context` tokens; a long layer counts the whole row."""
    return [context if window is None else min(window, context) for window in config.windows]


def attention_flops(config: ModelConfig) -> int:
    """FLOPs per token of scores and mixing, forward and backward, the full window counted (PaLM, arXiv 2204.02311)."""
    return 12 * config.heads * config.head_dim * sum(_keys(config, config.seq_len))


def _matmul_flops(config: ModelConfig) -> int:
    """FLOPs per token of every multiplied weight, forward and backward."""
    counts = count(config)
    return 6 * (counts.scaling + counts.smear_gate)


def flops_per_token(config: ModelConfig) -> int:
    """fpt: FLOPs per trained token, causality ignored as peers do. Forward alone is a third."""
    return _matmul_flops(config) + attention_flops(config)


def flops_per_token_causal(config: ModelConfig) -> int:
    """FLOPs per trained token that a causal kernel really needs, rounded to a whole number."""
    T, pairs = config.seq_len, 0
    for window in config.windows:
        W = T - 1 if window is None else min(window, T - 1)
        pairs += (W + 1) * (W + 2) // 2 + (T - W - 1) * (W + 1)
    return _matmul_flops(config) + round(12 * config.heads * config.head_dim * pairs / T)


def decode_flops(config: ModelConfig, context: int) -> int:
    """FLOPs of one generated token that sees `context` keys, itself included."""
    seen = sum(context if window is None else min(context, window + 1) for window in config.windows)
    return 2 * count(config).scaling + 4 * config.heads * config.head_dim * seen


def cache_bytes_per_token(config: ModelConfig, value_bytes: int = 2) -> int:
    """Bytes of keys and values per token and row, every layer keeping everything."""
    return 2 * config.depth * config.kv_heads * config.head_dim * value_bytes


def cache_bytes(config: ModelConfig, context: int, value_bytes: int = 2, *, rolling: bool = False) -> int:
    """Bytes of a row's cache at `context` tokens; rolling: short layers keep their window in whole blocks."""
    slots = 0
    for window in config.windows:
        kept = context if window is None else -(-(window + 1) // CACHE_BLOCK) * CACHE_BLOCK
        slots += min(kept, context) if rolling else context
    return 2 * slots * config.kv_heads * config.head_dim * value_bytes


def weight_bytes(config: ModelConfig, table_bytes: int = 2) -> int:
    """Bytes of the weights as stored: fp32, tables `table_bytes` each (2 on CUDA, 4 elsewhere)."""
    counts = count(config)
    return 4 * (counts.total - counts.tables) + table_bytes * counts.tables


def optimizer_bytes(config: ModelConfig, table_bytes: int = 2) -> int:
    """Bytes of the optimizer's state over all ranks: one momentum for matrices, two moments for the rest."""
    counts = count(config)
    rest = counts.head + counts.scalars + counts.smear_gate
    return 4 * counts.matrices + 8 * rest + 2 * table_bytes * counts.tables


def static_bytes(config: ModelConfig, ranks: int = 1, table_bytes: int = 2) -> int:
    """Bytes on each rank that do not depend on the batch: weights, gradients, its share of the optimizer."""
    return 2 * weight_bytes(config, table_bytes) + optimizer_bytes(config, table_bytes) // ranks


def checkpoint_bytes(config: ModelConfig, table_bytes: int = 2) -> int:
    """Bytes of a checkpoint that training can resume from."""
    return weight_bytes(config, table_bytes) + optimizer_bytes(config, table_bytes)
