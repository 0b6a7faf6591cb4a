"""Rows of conversations: whole, apart, in one order for all ranks, and resumable."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from picollm.conversation import Rendered
from picollm.errors import LoaderStateError, MissingError
from picollm.loader.batch import Batch
from picollm.loader.dialogs import IGNORE, Dialogs, pack

BOS = 0
T = 16


def conversation(number: int, length: int) -> Rendered:
    """BOS, then tokens that say whose they are: number·100 + position; the second half is to be said."""
    ids = (BOS, *(number * 100 + at for at in range(1, length)))
    return Rendered(ids, tuple(int(at >= length // 2) for at in range(length)))


def some(lengths: list[int]) -> list[Rendered]:
    return [conversation(number, length) for number, length in enumerate(lengths, start=1)]


def dialogs(lengths: list[int], **said: object) -> Dialogs:
    options: dict[str, object] = {"seq_len": T, "batch_size": 2, "rows_per_step": 3, "bos": BOS, "epochs": 1}
    return Dialogs(some(lengths), **(options | said))  # type: ignore[arg-type]


def steps(loader: Dialogs, most: int = 10_000) -> list[list[Batch]]:
    made = []
    for _ in range(most):
        try:
            made.append(loader.next_step())
        except StopIteration:
            break
    return made


def same(left: list[Batch], right: list[Batch]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets) and torch.equal(a.documents, b.documents)
        for a, b in zip(left, right, strict=True)
        if a.documents is not None and b.documents is not None
    )


lengths_lists = st.lists(st.integers(2, T + 1), min_size=1, max_size=40)


@given(st.lists(st.integers(1, 30), max_size=60))
def test_packing_places_each_conversation_once_and_never_overfills(lengths: list[int]) -> None:
    rows = pack(lengths, 30)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in row) <= 30 for row in rows)


@given(st.lists(st.integers(1, 30), max_size=60))
def test_packing_equals_the_obvious_best_fit(lengths: list[int]) -> None:
    rows: list[list[int]] = []
    room: list[int] = []
    touched: list[int] = []
    for clock, index in enumerate(sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))):
        fits = [row for row in range(len(rows)) if room[row] >= lengths[index]]
        if fits:
            row = min(fits, key=lambda row: (room[row], -touched[row]))
        else:
            row = len(rows)
            rows.append([])
            room.append(30)
            touched.append(0)
        rows[row].append(index)
        room[row] -= lengths[index]
        touched[row] = clock
    assert pack(lengths, 30) == rows


@given(lengths_lists)
def test_every_target_comes_once_from_its_own_conversation(lengths: list[int]) -> None:
    learned = []
    for batches in steps(dialogs(lengths)):
        for batch in batches:
            assert batch.documents is not None
            for inputs, targets, documents in zip(batch.inputs, batch.targets, batch.documents, strict=True):
                for at, target in enumerate(targets.tolist()):
                    if target == IGNORE:
                        continue
                    learned.append(target)
                    head = int((documents == documents[at]).nonzero()[0])
                    assert inputs[head] == BOS
                    context = inputs[head + 1 : at + 1].tolist()
                    assert context == [target // 100 * 100 + step for step in range(1, at - head + 1)]
    expected = [token for one in some(lengths) for token, said in zip(one.ids, one.mask, strict=True) if said]
    assert sorted(learned) == sorted(expected)


@given(lengths_lists, st.sampled_from([(1, 1), (1, 3), (2, 1), (2, 2), (3, 1)]))
def test_ranks_and_batch_sizes_share_one_order(lengths: list[int], shape: tuple[int, int]) -> None:
    world, batch_size = shape
    whole = steps(dialogs(lengths, batch_size=3, rows_per_step=3))
    ranks = [steps(dialogs(lengths, batch_size=batch_size, rank=r, world_size=world)) for r in range(world)]
    for number, [one] in enumerate(whole):
        micro_steps = len(ranks[0][number])
        rows = torch.cat([ranks[rank][number][micro].targets for micro in range(micro_steps) for rank in range(world)])
        assert torch.equal(rows[:3], one.targets)
        assert (rows[3:] == IGNORE).all()


@pytest.mark.row("L1")
def test_a_state_taken_after_any_step_continues_the_same_rows() -> None:
    lengths = [2 + (7 * index) % 15 for index in range(40)]
    whole = steps(dialogs(lengths, epochs=3))
    for after in range(len(whole) + 1):
        first = dialogs(lengths, epochs=3)
        steps(first, after)
        again = dialogs(lengths, epochs=3)
        again.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert again.state_dict() == first.state_dict()
        rest = steps(again)
        assert len(rest) == len(whole) - after
        assert all(same(a, b) for a, b in zip(rest, whole[after:], strict=True))


def test_a_state_of_other_conversations_is_refused() -> None:
    state = dialogs([5, 6]).state_dict()
    with pytest.raises(LoaderStateError, match="fingerprint"):
        dialogs([5, 7]).load_state_dict(state)
    with pytest.raises(LoaderStateError, match="seed 1337"):
        dialogs([5, 6], seed=1).load_state_dict(state)
    with pytest.raises(LoaderStateError, match="row 9"):
        dialogs([5, 6]).load_state_dict(state | {"row": 9})


def test_the_seed_and_the_epoch_change_the_order_and_nothing_else() -> None:
    lengths = [2 + index % 9 for index in range(50)]
    first, second = dialogs(lengths, seed=1), dialogs(lengths, seed=2)
    assert first.rows != second.rows
    assert first.rows != first.plan(1)
    assert first.facts == second.facts
    assert dialogs(lengths, seed=1).rows == first.rows


@pytest.mark.row("K45")
def test_a_conversation_longer_than_a_row_is_cut_and_counted() -> None:
    loader = dialogs([T + 5, 4])
    facts = loader.facts
    assert (facts.cut, facts.cut_tokens, facts.conversations) == (1, 4, 2)
    said = [t for [*batches] in steps(loader) for batch in batches for t in batch.targets.flatten().tolist()]
    assert sum(t != IGNORE for t in said) == facts.trained_tokens


def test_a_conversation_cut_before_its_answer_is_counted_as_silent() -> None:
    quiet = Rendered((BOS, *range(1, 40)), (0,) * 30 + (1,) * 10)
    loader = Dialogs([quiet], seq_len=T, batch_size=1, rows_per_step=1, bos=BOS, epochs=1)
    assert (loader.facts.silent, loader.facts.trained_tokens) == (1, 0)
    assert (loader.next_step()[0].targets == IGNORE).all()


def test_without_epochs_rows_run_on_for_ever() -> None:
    loader = dialogs([5, 6, 7], epochs=None, rows_per_step=1, batch_size=1)
    assert len(steps(loader, 20)) == 20
    assert loader.epoch > 5


def test_steps_in_says_how_long_a_pass_takes() -> None:
    lengths = [2 + index % 9 for index in range(50)]
    for epochs in (1, 3):
        assert dialogs(lengths).steps_in(epochs) == len(steps(dialogs(lengths, epochs=epochs)))


def test_no_conversation_is_an_error() -> None:
    with pytest.raises(MissingError):
        dialogs([])
