"""What a model is, as numbers: every constant that changes its function, and the rule from depth to shape.

Derived fields (padded vocabulary, windows, head width) are stored as well, so that a later rule cannot
reinterpret an old file. No torch here: plans are made on machines that have none.
"""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from picollm.errors import CheckError, UsageError

FORMAT = "picollm-model/1"
MAX_VOCAB = 65_536  # ids are stored as uint16
MAX_DEPTH = 256  # a bound for files from strangers, far above any plan
MAX_WIDTH = 65_536  # likewise
MAX_SEQ_LEN = 1 << 20  # likewise
VOCAB_MULTIPLE = 64  # rows of the head are padded to whole tiles of a matmul
WIDTH_PER_DEPTH = 64  # one depth, one width: the family nanochat's rates were tuned on
WIDE_HEAD, NARROW_HEAD = 128, 64  # head width from 256 channels on, and below
VE_GATE_CHANNELS = 12  # nanochat: the first channels suffice to open a value gate
SMEAR_CHANNELS = 24  # nanochat, PR #747


@dataclass(frozen=True)
class ModelConfig:
    """A model, whole. `windows[i]` is W of layer i: a query sees W + 1 keys; None is plain causal.

    Raises UsageError where the numbers contradict each other.
    """

    arch: str
    depth: int  # L
    width: int  # C
    heads: int  # H
    kv_heads: int  # K
    head_dim: int  # D
    seq_len: int  # T
    vocab_size: int  # V
    padded_vocab: int  # V'
    window_pattern: str
    windows: tuple[int | None, ...]
    rope_base: float = 100_000.0
    norm_eps: float = 2.0**-23  # what torch takes for fp32 when none is given; said aloud so bf16 has the same
    qk_scale: float = 1.2
    softcap: float | None = 15.0
    value_embeds: bool = True
    ve_gate_channels: int = VE_GATE_CHANNELS
    resid_scales: bool = True
    backout: bool = True
    smear: bool = False
    smear_channels: int = SMEAR_CHANNELS
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        _check_numbers(self)
        _check_shape(self)

    @property
    def value_layers(self) -> tuple[int, ...]:
        """Layers with a value embedding: every other one, always the last."""
        return tuple(i for i in range(self.depth) if self.value_embeds and i % 2 == (self.depth - 1) % 2)

    def to_json(self) -> str:
        """Canonical text: keys in order, one to a line."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The config in `text`. Raises CheckError for anything that `to_json` would not write."""
        try:
            values = json.loads(text)
        except ValueError as error:
            raise CheckError(f"model config is not JSON: {error}") from None
        if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
            raise CheckError(f"model config: format is not {FORMAT!r}", hint="use a picollm that knows this format")
        known = {field.name for field in fields(cls)}
        if values.keys() != known:
            wrong = ", ".join(sorted(values.keys() ^ known))
            raise CheckError(f"model config: missing or unknown fields: {wrong}")
        if not isinstance(values["windows"], list):
            raise CheckError("model config: windows is not a list")
        try:
            return cls(**{**values, "windows": tuple(values["windows"])})
        except UsageError as error:
            raise CheckError(f"model config: {error.message}") from None


def _check_numbers(config: ModelConfig) -> None:
    """Types and bounds, before any arithmetic: the file may come from a stranger."""
    bounds = {"depth": MAX_DEPTH, "width": MAX_WIDTH, "heads": MAX_WIDTH, "kv_heads": MAX_WIDTH, "head_dim": MAX_WIDTH,
              "seq_len": MAX_SEQ_LEN, "vocab_size": MAX_VOCAB, "padded_vocab": MAX_VOCAB,
              "ve_gate_channels": MAX_WIDTH, "smear_channels": MAX_WIDTH}  # fmt: skip
    for name, most in bounds.items():
        value: Any = getattr(config, name)
        if type(value) is not int or not 1 <= value <= most:
            raise UsageError(f"{name} must be a whole number in 1 … {most:,}, not {value!r}")
    for name in ("rope_base", "norm_eps", "qk_scale", "softcap"):
        value = getattr(config, name)
        if value is None and name == "softcap":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise UsageError(f"{name} must be a positive number, not {value!r}")
    for name in ("value_embeds", "resid_scales", "backout", "smear", "tie_embeddings"):
        if type(getattr(config, name)) is not bool:
            raise UsageError(f"{name} must be true or false, not {getattr(config, name)!r}")
    for window in config.windows:
        if window is not None and (type(window) is not int or not 0 <= window <= config.seq_len):
            raise UsageError(f"a window must be a whole number in 0 … {config.seq_len} or null, not {window!r}")


def _check_shape(config: ModelConfig) -> None:
    """What the fields say of each other."""
    if config.arch != "fast":
        raise UsageError(f"arch {config.arch!r} is not known; this version builds 'fast'")
    if config.heads * config.head_dim != config.width:
        product = config.heads * config.head_dim
        raise UsageError(f"{config.heads} heads × {config.head_dim} = {product}, but the width is {config.width}")
    if config.head_dim % 2:
        raise UsageError(f"head width {config.head_dim} is odd; rotation needs pairs")
    if config.heads % config.kv_heads:
        raise UsageError(f"{config.kv_heads} key heads do not divide {config.heads} query heads")
    if config.padded_vocab < config.vocab_size:
        raise UsageError(f"padded vocabulary {config.padded_vocab} is below the vocabulary {config.vocab_size}")
    if config.backout and config.depth < 2:
        raise UsageError("backout takes the stream at half depth back: depth 1 has none", hint="--no-backout")
    if config.tie_embeddings:
        raise UsageError("tied embeddings are not built: the head is untied")
    if config.value_embeds and config.ve_gate_channels > config.width:
        raise UsageError(f"a gate of {config.ve_gate_channels} channels needs that width, not {config.width}")
    if config.smear and config.smear_channels > config.width:
        raise UsageError(f"a smear gate of {config.smear_channels} channels needs that width, not {config.width}")
    check_pattern(config.window_pattern)
    if len(config.windows) != config.depth:
        raise UsageError(f"{len(config.windows)} windows for {config.depth} layers")


def check_pattern(pattern: str) -> None:
    """Raise UsageError unless `pattern` is a word of S and L."""
    if not pattern or set(pattern) - set("SL"):
        raise UsageError(f"window pattern {pattern!r} must be a word of S (short) and L (long)", hint="SSSL or L")


def short_window(seq_len: int) -> int:
    """W of an S layer, in tokens: a quarter of the row in whole blocks of 128 (2048 → 512), at most the row."""
    return min(-(-seq_len // 512) * 128, seq_len)


def layer_windows(pattern: str, depth: int, seq_len: int) -> tuple[int | None, ...]:
    """The pattern tiled over the layers; the last layer always sees everything."""
    check_pattern(pattern)
    short = short_window(seq_len)
    tiled = [short if pattern[i % len(pattern)] == "S" else None for i in range(depth)]
    return (*tiled[:-1], None)


def shape(
    depth: int,
    vocab_size: int,
    seq_len: int = 2048,
    window_pattern: str = "SSSL",
    *,
    width: int | None = None,
    heads: int | None = None,
    head_dim: int | None = None,
    kv_heads: int | None = None,
    **flags: Any,
) -> ModelConfig:
    """The model of this depth. `flags` are the other fields of ModelConfig; unsaid sizes follow from the depth.

    The width is 64 · depth rounded up to whole heads; the head is 128 wide from 256 channels on, else 64.
    """
    for name, value in (("depth", depth), ("vocab_size", vocab_size), ("seq_len", seq_len)):
        if value < 1:
            raise UsageError(f"{name} must be at least 1, not {value}")
    if vocab_size > MAX_VOCAB:
        raise UsageError(f"vocabulary {vocab_size:,} is above {MAX_VOCAB:,}: ids are stored in 16 bits")
    asked = width or WIDTH_PER_DEPTH * depth
    if heads and not head_dim:
        if asked % heads:
            raise UsageError(f"{heads} heads do not divide the width {asked}", hint="say --head-dim or --width")
        head_dim = asked // heads
    head_dim = head_dim or (WIDE_HEAD if asked >= 2 * WIDE_HEAD else NARROW_HEAD)
    if width is None:
        width = heads * head_dim if heads else -(-asked // head_dim) * head_dim
    elif width % head_dim:
        raise UsageError(f"heads of {head_dim} do not fill the width {width}: {width} / {head_dim} is not whole")
    heads = heads or width // head_dim
    flags.setdefault("ve_gate_channels", min(VE_GATE_CHANNELS, width))
    flags.setdefault("smear_channels", min(SMEAR_CHANNELS, width))
    return ModelConfig(
        arch=flags.pop("arch", "fast"),
        depth=depth,
        width=width,
        heads=heads,
        kv_heads=kv_heads or heads,
        head_dim=head_dim,
        seq_len=seq_len,
        vocab_size=vocab_size,
        padded_vocab=-(-vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE,
        window_pattern=window_pattern,
        windows=layer_windows(window_pattern, depth, seq_len),
        **flags,
    )
