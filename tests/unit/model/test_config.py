"""From depth to shape, and the file that a config becomes."""

import json

import pytest

from picollm.errors import CheckError, UsageError
from picollm.model.config import ModelConfig, layer_windows, shape, short_window


@pytest.mark.parametrize(
    ("depth", "width", "heads", "head_dim"),
    [(1, 64, 1, 64), (3, 192, 3, 64), (4, 256, 2, 128), (5, 384, 3, 128), (12, 768, 6, 128), (24, 1536, 12, 128)],
)
def test_width_is_64_per_layer_in_whole_heads(depth: int, width: int, heads: int, head_dim: int) -> None:
    config = shape(depth, 4096, backout=depth > 1)
    assert (config.width, config.heads, config.head_dim) == (width, heads, head_dim)


def test_the_quickstart_has_four_narrow_heads() -> None:
    config = shape(4, 4096, 256, "L", width=128, heads=4)
    assert (config.width, config.heads, config.kv_heads, config.head_dim) == (128, 4, 4, 32)


@pytest.mark.parametrize(("seq_len", "window"), [(2048, 512), (512, 128), (513, 256), (64, 64), (1, 1)])
def test_a_short_window_is_a_quarter_row_in_blocks_of_128(seq_len: int, window: int) -> None:
    assert short_window(seq_len) == window


@pytest.mark.parametrize(("depth", "long"), [(12, [3, 7, 11]), (18, [3, 7, 11, 15, 17]), (1, [0]), (5, [3, 4])])
def test_the_last_layer_sees_everything(depth: int, long: list[int]) -> None:
    windows = layer_windows("SSSL", depth, 2048)
    assert [i for i, window in enumerate(windows) if window is None] == long
    assert all(window in (None, 512) for window in windows)


@pytest.mark.parametrize("change", [{}, {"softcap": None, "smear": True}, {"kv_heads": 1, "value_embeds": False}])
def test_a_config_survives_its_file(change: dict[str, object]) -> None:
    config = shape(4, 5000, 256, **change)
    assert ModelConfig.from_json(config.to_json()) == config
    assert config.padded_vocab == 5056


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"vocab_size": 65_537}, "16 bits"),
        ({"heads": 3, "width": 128}, "3 heads do not divide"),
        ({"heads": 3, "head_dim": 32, "width": 128}, "3 heads × 32 = 96"),
        ({"kv_heads": 4}, "4 key heads do not divide"),
        ({"window_pattern": "SXL"}, "S (short) and L (long)"),
        ({"depth": 1}, "backout"),
        ({"depth": 0}, "at least 1"),
        ({"width": 100}, "not whole"),
        ({"softcap": -1.0}, "softcap"),
        ({"arch": "slow"}, "arch"),
    ],
)
def test_a_contradiction_is_refused_with_its_numbers(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        shape(**{"depth": 4, "vocab_size": 4096, **arguments})
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("field", "value"),
    [("depth", "4"), ("depth", True), ("width", 10**12), ("windows", 3), ("windows", [512, -1, 512, None]),
     ("backout", 1), ("format", "picollm-model/2"), ("norm_eps", 0), ("extra", 1), ("padded_vocab", 64)],
)  # fmt: skip
def test_a_strange_file_is_refused(field: str, value: object) -> None:
    values = json.loads(shape(4, 4096).to_json())
    values[field] = value
    with pytest.raises(CheckError):
        ModelConfig.from_json(json.dumps(values))


def test_text_that_is_not_json_is_refused() -> None:
    with pytest.raises(CheckError, match="not JSON"):
        ModelConfig.from_json(b"{")
