"""The network against its slow twin, and the promises it makes about tokens that do not see each other."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.reference import model as twin
from torch import Tensor

from picollm.errors import UsageError
from picollm.model.cache import Cache
from picollm.model.config import ModelConfig, shape
from picollm.model.counts import count
from picollm.model.gpt import GPT
from picollm.model.init import build, initialise, stored_dtype
from picollm.model.roles import Role, roles

V, T = 90, 13


def tiny(depth: int = 4, window_pattern: str = "SSL", **flags: Any) -> ModelConfig:
    """Four narrow heads, windows of 5 in rows of 13."""
    config = shape(depth, V, T, window_pattern, width=32, heads=4, **flags)
    windows = tuple(None if window is None else 5 for window in config.windows)
    return ModelConfig(**{**vars(config), "windows": windows})


def stirred(config: ModelConfig, dtype: torch.dtype = torch.float32) -> GPT:
    """A model whose every weight does something."""
    model = build(config, 7, dtype=dtype)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator, dtype=torch.float64).to(dtype), alpha=0.2)
    return model


def ids(rows: int = 2, length: int = T, seed: int = 5) -> Tensor:
    return torch.randint(0, V, (rows, length), generator=torch.Generator().manual_seed(seed))


VARIANTS: dict[str, dict[str, Any]] = {
    "as shipped": {},
    "everything off": {"value_embeds": False, "resid_scales": False, "backout": False, "softcap": None},
    "smear": {"smear": True},
    "one key head": {"kv_heads": 1},
    "two key heads": {"kv_heads": 2, "window_pattern": "S"},
    "two layers": {"depth": 2},
    "one layer": {"depth": 1, "backout": False},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_the_network_is_its_slow_twin(variant: str, dtype: torch.dtype, bound: float) -> None:
    model = stirred(tiny(**VARIANTS[variant]), dtype)
    weights = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    row = ids(1)
    for documents in ([0] * T, [0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 3, 4, 4]):
        with torch.no_grad():
            found = model.logits(row, documents=torch.tensor([documents]))[0].double().numpy()
        expected = twin.logits(model.config, weights, row[0].tolist(), documents)
        assert np.abs(found - expected).max() <= bound * np.abs(expected).max()
    targets = [*row[0, 1:].tolist(), -100]
    losses = model.token_losses(row, torch.tensor([targets]))[0].tolist()
    assert losses == pytest.approx(twin.nats(model.config, weights, row[0].tolist(), targets), rel=bound)


@pytest.mark.parametrize("variant", VARIANTS)
def test_documents_unsaid_are_one_document(variant: str) -> None:
    model = stirred(tiny(**VARIANTS[variant]))
    one = torch.zeros(2, T, dtype=torch.int32)
    torch.testing.assert_close(model.logits(ids()), model.logits(ids(), documents=one), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pattern", ["L", "SSSL"])
@pytest.mark.parametrize("place", [0, 1, 7, 12])
def test_a_token_changes_nothing_before_it(pattern: str, place: int) -> None:
    model = stirred(tiny(window_pattern=pattern, smear=True))
    row = ids()
    changed = row.clone()
    changed[:, place] = (row[:, place] + 1) % V
    before, after = model.logits(row), model.logits(changed)
    assert torch.equal(before[:, :place], after[:, :place])
    assert not torch.equal(before[:, place], after[:, place])


def test_a_document_changes_nothing_in_the_next_smear_included() -> None:
    model = stirred(tiny(smear=True))
    row = ids()
    documents = (torch.arange(T) >= 6).int().expand(2, T)
    changed = row.clone()
    changed[:, :6] = (row[:, :6] + 1) % V
    before, after = (model.logits(x, documents=documents) for x in (row, changed))
    assert torch.equal(before[:, 6:], after[:, 6:])


def test_rows_do_not_see_each_other() -> None:
    model = stirred(tiny())
    both = model.logits(ids(2))
    torch.testing.assert_close(both[1:], model.logits(ids(2)[1:]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("length", [1, 2, 13, 27])
def test_any_length_works_and_ids_may_be_narrow(length: int) -> None:
    model = stirred(tiny())
    with torch.no_grad():
        wide, narrow = model.logits(ids(1, length)), model.logits(ids(1, length).int())
    assert wide.shape == (1, length, V)
    assert torch.equal(wide, narrow)
    assert bool(torch.isfinite(wide).all())


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_weight_learns_by_the_second_step(variant: str) -> None:
    model = build(tiny(**VARIANTS[variant]), 1)
    targets = ids(2, seed=6)
    for _ in range(2):
        model.zero_grad()
        (model.loss_sum(ids(), targets) / targets.numel()).backward()
        with torch.no_grad():
            for p in model.parameters():
                assert p.grad is not None
                p.sub_(p.grad, alpha=1.0)
    still = {name for name, p in model.named_parameters() if not bool(p.grad.any())}  # type: ignore[union-attr]
    assert not still - {"smear_gate.weight"}  # its scale starts at zero: one step later


def test_the_first_gradient_is_zero_where_the_zero_projections_hide() -> None:
    model = build(tiny(), 1)
    targets = ids(2, seed=6)
    (model.loss_sum(ids(), targets) / targets.numel()).backward()
    for name, p in model.named_parameters():
        grad = p.grad
        assert grad is not None
        role = roles(model)[name]
        if role in (Role.RESID_SCALE, Role.X0_SCALE, Role.BACKOUT_SCALE):
            assert float(grad.abs().max()) < 1e-8, name
        elif role is Role.VALUE_EMBED or (role is Role.MATRIX and not name.endswith(("o.weight", "down.weight"))):
            assert not bool(grad.any()), name
        else:
            assert bool(grad.any()), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_counts_are_those_of_the_real_model(variant: str) -> None:
    with torch.device("meta"):
        for depth in (2, 4, 5, 12) if variant != "one layer" else (1,):
            flags = {k: v for k, v in VARIANTS[variant].items() if k not in ("depth", "window_pattern")}
            config = shape(depth, 5000, **{**flags, "heads": 4 if "kv_heads" in flags else None})
            model = GPT(config)
            found: dict[Role, int] = {}
            for name, p in model.named_parameters():
                role = roles(model)[name]
                found[role] = found.get(role, 0) + p.numel()
            counts = count(config)
            assert sum(found.values()) == counts.total
            assert found[Role.MATRIX] == counts.matrices
            assert found[Role.UNEMBED] == counts.head
            assert found[Role.EMBED] == counts.embed
            assert found.get(Role.VALUE_EMBED, 0) == counts.value_embeds


@pytest.mark.parametrize("depth", range(2, 25))
def test_counts_hold_at_every_depth(depth: int) -> None:
    config = shape(depth, 32_768)
    with torch.device("meta"):
        assert sum(p.numel() for p in GPT(config).parameters()) == count(config).total


def test_every_weight_is_filled_with_the_moments_of_its_role() -> None:
    config = shape(4, 1000, 64, smear=True)
    model = build(config, 1337)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(math.nan)
    initialise(model, 1337)
    C = config.width
    for name, p in model.named_parameters():
        assert bool(torch.isfinite(p).all()), name
        if name.endswith((".o.weight", ".down.weight")) or name == "smear_scale":
            assert not p.any(), name
            continue
        if name in ("resid_scale", "x0_scale", "backout_scale") or name.endswith("_gate.weight"):
            continue
        n, mean, std = p.numel(), float(p.detach().mean()), float(p.detach().std())
        expected = {"embed.weight": 0.8, "lm_head.weight": 0.001}.get(name, C**-0.5)
        expected *= 0.4 if name.endswith("up.weight") else 1.0
        assert abs(mean) < 4 * expected / n**0.5, name
        assert abs(std / expected - 1) < 4 / (2 * n) ** 0.5, name
    assert model.resid_scale.tolist() == pytest.approx([1.15, 1.15 - 0.1 / 3, 1.15 - 0.2 / 3, 1.05])
    assert model.x0_scale.tolist() == pytest.approx([0.2, 0.15, 0.1, 0.05])
    gate = model.blocks[3].attn.ve_gate.weight.detach()
    assert 0 <= float(gate.min()) < float(gate.max()) <= 0.02


def test_a_weight_depends_on_the_seed_and_its_name_alone() -> None:
    shallow, deep, other = build(tiny(2), 1), build(tiny(4), 1), build(tiny(2), 2)
    assert torch.equal(shallow.embed.weight, deep.embed.weight)
    assert torch.equal(shallow.blocks[1].attn.q.weight, deep.blocks[1].attn.q.weight)
    assert not torch.equal(shallow.blocks[0].attn.q.weight, shallow.blocks[0].attn.k.weight)
    assert not torch.equal(shallow.embed.weight, other.embed.weight)


def test_an_untrained_model_knows_nothing() -> None:
    model = build(shape(4, 500, 64, "L", width=64, heads=2), 1337)
    x, y = (torch.randint(0, 500, (4, 64), generator=torch.Generator().manual_seed(s)) for s in (1, 2))
    assert float(model.token_losses(x, y).mean().detach()) == pytest.approx(math.log(500), abs=0.01)


def test_tables_are_halved_on_cuda_in_bf16_only() -> None:
    cuda, cpu, bf16 = torch.device("cuda"), torch.device("cpu"), torch.bfloat16
    assert stored_dtype(Role.VALUE_EMBED, cuda, bf16) == bf16
    assert stored_dtype(Role.UNEMBED, cuda, bf16) == torch.float32
    assert stored_dtype(Role.EMBED, cpu, bf16) == torch.float32
    assert stored_dtype(Role.EMBED, cpu, torch.float64) == torch.float64


def test_bf16_computes_what_fp32_does_to_its_precision() -> None:
    exact, rough = stirred(tiny()), stirred(tiny())
    rough.compute_dtype = torch.bfloat16
    targets = ids(2, seed=6)
    with torch.no_grad():
        assert rough.logits(ids()).dtype == torch.float32
        torch.testing.assert_close(rough.token_losses(ids(), targets).mean(), exact.token_losses(ids(), targets).mean(),
                                   rtol=2e-2, atol=0)  # fmt: skip
    rough.loss_sum(ids(), targets).backward()
    assert rough.lm_head.weight.grad is not None
    assert rough.lm_head.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("cuts", [[13], [1] * 13, [5, 1, 1, 6], [12, 1]])
def test_decoding_is_the_full_forward_however_it_is_cut(variant: str, cuts: list[int]) -> None:
    model = stirred(tiny(**VARIANTS[variant]))
    row = ids()
    with torch.no_grad():
        cache = Cache(model.config, 2, 20)
        parts = [model.logits(part, cache) for part in row.split(cuts, 1)]
        torch.testing.assert_close(torch.cat(parts, 1), model.logits(row), rtol=1e-4, atol=1e-4)


def test_decoding_goes_on_past_the_training_length() -> None:
    model = stirred(tiny())
    row = ids(1, 5 * T)
    with torch.no_grad():
        cache = Cache(model.config, 1, 5 * T)
        found = torch.cat([model.logits(part, cache) for part in row.split(9, 1)], 1)
        torch.testing.assert_close(found, model.logits(row), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", ["as shipped", "smear"])
def test_prompts_of_different_lengths_share_a_cache(variant: str) -> None:
    model = stirred(tiny(**VARIANTS[variant]))
    row = ids()
    with torch.no_grad():
        cache = Cache(model.config, 2, 20)
        model.hidden(row[:, :9], cache=cache, counts=[4, 9])
        found = model.logits(torch.stack((row[0, 4:7], row[1, 9:12])), cache)
        torch.testing.assert_close(found[0], model.logits(row[:1, :7])[0, 4:], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found[1], model.logits(row[1:, :12])[0, 9:], rtol=1e-4, atol=1e-4)
    assert cache.lengths == [7, 12]


def test_a_full_cache_is_refused() -> None:
    model = stirred(tiny())
    cache = Cache(model.config, 1, 8)
    with pytest.raises(UsageError, match="9 tokens, room for 8"):
        model.logits(ids(1, 9), cache)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_training_is_one_graph() -> None:
    model = stirred(tiny())
    traced = torch.compile(model.loss_sum, backend="aot_eager", fullgraph=True, dynamic=False)
    grads = []
    for loss_sum in (model.loss_sum, traced):
        model.zero_grad()
        loss_sum(ids(), ids(2, seed=6)).backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


def test_recomputing_blocks_changes_no_bit_of_loss_or_gradients() -> None:
    ids = torch.randint(0, 300, (2, 33), generator=torch.Generator().manual_seed(0))
    found = []
    for recompute in (False, True):
        model = build(shape(4, 300, 32, "SL", width=64, head_dim=16), 1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01)
        model.recompute = recompute
        loss = model.loss_sum(ids[:, :-1], ids[:, 1:])
        loss.backward()
        found.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
