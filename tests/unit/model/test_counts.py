"""The formulas, against the worked examples of the design."""

import pytest

from picollm.model.config import ModelConfig, shape
from picollm.model.counts import (
    attention_flops,
    cache_bytes,
    cache_bytes_per_token,
    checkpoint_bytes,
    count,
    decode_flops,
    flops_per_token,
    flops_per_token_causal,
    static_bytes,
)

# depth, V: (mat, head, ve, scal, total, P, attention, fpt, fpt_causal); T = 2048, SSSL
WORKED = {
    (12, 32_768): (84_935_088, 25_165_824, 150_994_944, 25, 286_261_705, 110_100_912,
                   99_090_432, 759_695_904, 726_162_336),
    (18, 32_768): (286_655_436, 37_748_736, 339_738_624, 37, 701_891_569, 324_404_172,
                   233_570_304, 2_179_995_336, 2_097_906_696),
    (24, 32_768): (679_478_976, 50_331_648, 603_979_776, 49, 1_384_122_097, 729_810_624,
                   396_361_728, 4_775_225_472, 4_641_091_200),
    (12, 65_536): (84_935_088, 50_331_648, 301_989_888, 25, 487_588_297, 135_266_736,
                   99_090_432, 910_690_848, 877_157_280),
    (18, 65_536): (286_655_436, 75_497_472, 679_477_248, 37, 1_117_127_665, 362_152_908,
                   233_570_304, 2_406_487_752, 2_324_399_112),
    (24, 65_536): (679_478_976, 100_663_296, 1_207_959_552, 49, 2_088_765_169, 780_142_272,
                   396_361_728, 5_077_215_360, 4_943_081_088),
}  # fmt: skip
# depth, V: share of embeddings %, KV bytes a token, MB a row full and rolling, static GB on 1 and 8 ranks, checkpoint
SIZES = {
    (12, 32_768): (70.3, 36_864, 75.50, 36.57, 2.83, 1.74, 2.04),
    (18, 32_768): (59.2, 82_944, 169.87, 85.52, 7.06, 4.48, 5.01),
    (24, 32_768): (50.9, 147_456, 301.99, 146.28, 14.19, 9.17, 9.97),
    (12, 65_536): (82.6, 36_864, 75.50, 36.57, 4.64, 2.76, 3.40),
    (18, 65_536): (74.3, 82_944, 169.87, 85.52, 10.69, 6.51, 7.73),
    (24, 65_536): (67.5, 147_456, 301.99, 146.28, 20.23, 12.57, 14.50),
}


@pytest.mark.parametrize(("depth", "vocab"), WORKED)
def test_the_worked_examples_hold(depth: int, vocab: int) -> None:
    config = shape(depth, vocab)
    counts = count(config)
    found = (
        counts.matrices, counts.head, counts.value_embeds, counts.scalars, counts.total, counts.scaling,
        attention_flops(config), flops_per_token(config), flops_per_token_causal(config),
    )  # fmt: skip
    assert found == WORKED[depth, vocab]
    assert counts.embed == counts.head


@pytest.mark.parametrize(("depth", "vocab"), SIZES)
def test_the_worked_sizes_hold(depth: int, vocab: int) -> None:
    config = shape(depth, vocab)
    found = (
        round(100 * count(config).embedding_share, 1),
        cache_bytes_per_token(config),
        round(cache_bytes(config, 2048) / 1e6, 2),
        round(cache_bytes(config, 2048, rolling=True) / 1e6, 2),
        round(static_bytes(config) / 1e9, 2),
        round(static_bytes(config, 8) / 1e9, 2),
        round(checkpoint_bytes(config) / 1e9, 2),
    )
    assert found == SIZES[depth, vocab]


def test_smear_costs_25_parameters_and_144_flops() -> None:
    plain, smeared = shape(12, 32_768), shape(12, 32_768, smear=True)
    assert count(smeared).total - count(plain).total == 25
    assert flops_per_token(smeared) - flops_per_token(plain) == 144


def test_the_causal_count_is_the_number_of_visible_pairs() -> None:
    config = shape(4, 256, 100, "SL")
    assert flops_per_token_causal(config) - 6 * count(config).scaling == round(12 * 256 * visible(config) / 100)


def visible(config: ModelConfig) -> int:
    T = config.seq_len
    return sum(i - j <= (T if w is None else w) for w in config.windows for i in range(T) for j in range(i + 1))


def test_decoding_sees_one_key_more_than_the_window() -> None:
    config = shape(4, 256, 512, "S")  # windows 128, 128, 128, none
    seen = (decode_flops(config, 1000) - 2 * count(config).scaling) // (4 * 256)
    assert seen == 3 * 129 + 1000
