"""The calculator: exact, bounded, in any thread, and nothing a model writes is ever executed."""

import contextlib
import threading
import time
from collections.abc import Sequence
from fractions import Fraction
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picollm.conversation import PartKind
from picollm.infer.calculator import LONGEST, Calculator, Refused, calculate
from picollm.infer.engine import Token
from picollm.infer.spoken import parts_of, shown, spoken


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("1+2", "3"), ("(1,200 - 0.1) * 3", "3599.7"), ("2 / 3", "0.666666666667"), ("0.1 + 0.2", "0.3"),
        ("7 % 3", "1"),
        ("-7 // 2", "-4"), ("2 ** 10", "1024"), ("2 ** -1", "0.5"), ("9 ** 0.5", "3"), ("1e3", "1000"), ("+-+5", "-5"),
        ('"strawberry".count("r")', "3"), ("'a b'.count(' ')", "1"), (" 48/2 ", "24"), ("1_000*2", "2000"),
    ],
)  # fmt: skip
def test_numbers_come_out_as_people_write_them(expression: str, result: str) -> None:
    assert calculate(expression) == result


@pytest.mark.row("E3")
@pytest.mark.parametrize(
    "expression",
    [
        "", "9**9**9", "9**9**9**9**9", "1e99999999", "10**1000000", "(" * 100_000,
        "-" * 200 + "1", "9" * 10**6, "1/0", "1%0", "1//0.0", "0**-1", "(-8)**0.5", "1 .__class__", "a", "x=1", "1,2",
        "[1]*9", "'a'*9", "'a'.count('')", "'a'.upper()", "''.join('a')", "__import__('os')", "lambda: 1",
        "1if 1else 2",
        "\u0663+1", "1\u00b2", "0x10", "0b1", "1j", "5e", "3(4)", "1;2", "1\n2", "1 # x", "'\\x41'.count('A')",
        "f'{1}'",
        "2**4000*2**4000", "1e1200*1e1200", "2**333",
    ],
)  # fmt: skip
def test_anything_else_is_refused(expression: str) -> None:
    with pytest.raises(Refused):
        calculate(expression)


OPERATORS = {"+": Fraction.__add__, "-": Fraction.__sub__, "*": Fraction.__mul__, "/": Fraction.__truediv__}


def combined(
    parts: tuple[tuple[str, Fraction | None], str, tuple[str, Fraction | None]],
) -> tuple[str, Fraction | None]:
    (left, a), operator, (right, b) = parts
    nothing = a is None or b is None or (operator == "/" and b == 0)
    return f"({left} {operator} {right})", None if nothing else OPERATORS[operator](a, b)


trees = st.recursive(
    st.decimals(0, 10**6, places=3).map(lambda d: (str(d), Fraction(str(d)))),
    lambda inner: st.tuples(inner, st.sampled_from(sorted(OPERATORS)), inner).map(combined),
    max_leaves=6,
)


@pytest.mark.row("E3")
@given(trees)
def test_it_agrees_with_fractions(tree: tuple[str, Fraction | None]) -> None:
    text, value = tree
    try:
        found = calculate(text)
    except Refused:
        assert value is None or len(text) > LONGEST or abs(value) >= 10**99
        return
    assert value is not None
    assert abs(Fraction(found) - value) <= abs(value) * Fraction(1, 10**11)


@pytest.mark.row("E3")
@given(st.text(alphabet="0123456789eE+-*/%()., _'\"acount", max_size=300))
def test_any_text_is_answered_or_refused(text: str) -> None:
    with contextlib.suppress(Refused):
        assert calculate(text)


@pytest.mark.row("E3")
def test_it_works_in_a_thread_and_its_time_is_reported(record_property: object) -> None:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(calculate("(3 + 4) * 6")))
    started = time.perf_counter()
    thread.start()
    thread.join()
    record_property("ms", 1000 * (time.perf_counter() - started))  # type: ignore[operator]
    assert found == ["42"]


NAMES = ["bos", *(f"{who}_{end}" for who in ("user", "assistant", "python", "output") for end in ("start", "end"))]


class Letters:
    """Bytes and nine specials; what a stream of ids spells is Latin-1."""

    specials: ClassVar[dict[str, int]] = {f"<|{name}|>": 256 + number for number, name in enumerate(NAMES)}

    def encode(self, text: str) -> list[int]:
        return list(text.encode("latin-1"))

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode("latin-1")

    def stream(self) -> "Letters":
        return self

    def push(self, token: int) -> str:
        return chr(token)

    def finish(self) -> str:
        return ""


LETTERS = Letters()
CALL, DONE, OUT, OVER = (
    LETTERS.specials[f"<|{name}|>"] for name in ("python_start", "python_end", "output_start", "output_end")
)


def test_a_call_is_followed_by_what_it_gave() -> None:
    tool = Calculator(LETTERS)
    call = [*b"so ", CALL, *b"6*7", DONE]
    assert list(tool(call)) == [OUT, *b"42", OVER]
    assert list(tool(call[:-1])) == []
    assert list(tool([CALL, *b"import os", DONE])) == [OUT, *b"error", OVER]
    assert list(tool([CALL, *b"1+", 256, *b"1", DONE])) == [OUT, *b"error", OVER]
    assert list(tool([*b"x", DONE])) == []
    assert list(tool([CALL, *b"1", CALL, *b"2", DONE])) == [OUT, *b"2", OVER]


def test_an_answer_is_told_apart_into_words_calls_and_results() -> None:
    ids = [*b"so ", CALL, *b"6*7", DONE, OUT, *b"42", OVER, *b" it is"]
    pieces = list(spoken([Token(id) for id in ids], LETTERS))
    parts = parts_of(pieces)
    text, python, output = PartKind.TEXT, PartKind.PYTHON, PartKind.OUTPUT
    assert [(part.kind, part.text) for part in parts] == [
        (text, "so "),
        (python, "6*7"),
        (output, "42"),
        (text, " it is"),
    ]
    assert "".join(shown(pieces)) == "so [6*7 = 42] it is"
    assert "".join(shown(spoken([Token(CALL), Token(50)], LETTERS))) == "[2]"
