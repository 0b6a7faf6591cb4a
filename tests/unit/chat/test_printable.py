"""What reaches the terminal."""

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picollm.chat.repl import BIDI, printable


@pytest.mark.row("W9")
def test_no_code_point_can_command_a_terminal() -> None:
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    kept = printable(every)
    assert not {c for c in kept if unicodedata.category(c) in ("Cc", "Cs")} - {"\n", "\t"}
    assert not set(kept) & BIDI
    kept.encode()


@pytest.mark.row("W9")
@given(st.lists(st.text()))
def test_pieces_are_cleaned_like_the_whole(pieces: list[str]) -> None:
    assert "".join(map(printable, pieces)) == printable("".join(pieces))


def test_letters_and_emoji_come_through() -> None:
    text = "é 日本 👩‍👩‍👧 \n\tעברית"
    assert printable(text) == text
