"""Who owns what: pure, complete and balanced."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from picollm.model.config import shape
from picollm.model.gpt import GPT
from picollm.model.roles import roles
from picollm.optim.groups import SMALL, group_by_role, muon_cost, owners, pieces, row_range


def shapes_of(depth: int, **flags: bool) -> tuple[dict[str, tuple[int, ...]], GPT]:
    with torch.device("meta"):
        model = GPT(shape(depth, 4096, **flags))
    return {name: tuple(p.shape) for name, p in model.named_parameters()}, model


def test_the_rule_goes_by_role_and_the_exchange_by_size() -> None:
    shapes, model = shapes_of(4, smear=True)
    groups = group_by_role(shapes, roles(model))
    assert sorted(sum(vars(groups).values(), ())) == sorted(shapes)
    assert set(groups.tables) == {"embed.weight", "lm_head.weight", "value_embeds.1.weight", "value_embeds.3.weight"}
    assert set(groups.small_matrices) == {"blocks.1.attn.ve_gate.weight", "blocks.3.attn.ve_gate.weight"}
    assert "smear_gate.weight" in groups.small
    assert all(".attn." in name or ".mlp." in name for name in groups.matrices)
    assert len(groups.matrices) == 24


@pytest.mark.parametrize("depth", [12, 18, 24])
@pytest.mark.parametrize("size", range(1, 9))
def test_owners_are_balanced_to_a_fifteenth(depth: int, size: int) -> None:
    shapes, model = shapes_of(depth)
    matrices = {name: shapes[name] for name in group_by_role(shapes, roles(model)).matrices}
    load, held = [0] * size, [0] * size
    for name, rank in owners(matrices, size).items():
        load[rank] += muon_cost(matrices[name])
        held[rank] += matrices[name][0] * matrices[name][1]
    assert max(load) * size <= 1.07 * sum(load)
    assert max(held) * size <= 1.07 * sum(held)


@given(rows=st.integers(0, 1000), size=st.integers(1, 16))
def test_row_ranges_tile_a_table(rows: int, size: int) -> None:
    edges = [row_range(rows, rank, size) for rank in range(size)]
    assert edges[0][0] == 0
    assert edges[-1][1] == rows
    assert all(a[1] == b[0] for a, b in pairwise(edges))
    assert all(b - a <= -(-rows // size) for a, b in edges)


@given(
    st.dictionaries(st.text("abc", min_size=1), st.sampled_from([(2, 3), (3, 2), (4, 4), (30, 2)]), max_size=20),
    st.integers(1, 80),
)
def test_pieces_hold_each_matrix_once_in_stacks_of_one_shape(shapes: dict[str, tuple[int, int]], most: int) -> None:
    found = pieces(shapes, most)
    assert sorted(name for piece in found for stack in piece for name in stack) == sorted(shapes)
    for piece in found:
        sizes = [shapes[name][0] * shapes[name][1] for stack in piece for name in stack]
        assert sum(sizes) <= most or len(sizes) == 1
        for stack in piece:
            assert len({shapes[name] for name in stack}) == 1


def test_the_threshold_is_the_specifications() -> None:
    assert SMALL == 4096
