"""A calculator that a model may use while it answers: exact, bounded, and nothing but arithmetic.

A call is what the model writes between `<|python_start|>` and `<|python_end|>`; what it gave follows as
`<|output_start|>` … `<|output_end|>`, put there by us. Nothing is ever executed: an expression is read into a tree, and
the tree is worked out in fractions. No signals, so it works in any thread.
"""

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Protocol

from picollm.conversation import Encoder
from picollm.errors import UsageError

LONGEST = 256  # characters of an expression
DEEPEST = 32
MOST_BITS = 4096  # of a numerator or denominator
MOST_EXPONENT = 1200  # of ten, in a literal: 4096 bits hold 1233 digits
MOST_DIGITS = 100  # of a whole result: every digit takes room in the context
DIGITS = 12  # significant ones of a result that is not whole
REFUSED = "error"

ARITHMETIC = re.compile(r"[0-9eE+\-*/%().,_ \t]*")
LITERAL = re.compile(r"(\d[\d_]*)?\.?[\d_]*(?:[eE][+-]?(\d+))?")
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
COUNT = re.compile(r"""\s*(["'])([^"'\\]*)\1\.count\(\s*(["'])([^"'\\]+)\3\s*\)\s*""")


class Refused(UsageError):
    """Not an expression of numbers, or one whose result is too large."""


def divided(a: Fraction, b: Fraction) -> Fraction:
    return a / nonzero(b)


def floored(a: Fraction, b: Fraction) -> Fraction:
    return Fraction(a // nonzero(b))


def rest(a: Fraction, b: Fraction) -> Fraction:
    return a % nonzero(b)


def nonzero(b: Fraction) -> Fraction:
    if not b:
        raise Refused("division by zero")
    return b


def power(a: Fraction, b: Fraction) -> Fraction:
    """A whole exponent is exact; any other one goes through floats."""
    if b.denominator == 1:
        bits = max(a.numerator.bit_length(), a.denominator.bit_length())
        if bits * abs(b.numerator) > 2 * MOST_BITS and abs(a) not in (0, 1):
            raise Refused("the power is too large")
        return nonzero(a) ** b.numerator if b < 0 else a**b.numerator
    if a < 0:
        raise Refused("a root of a negative number")
    try:
        return Fraction(float(a) ** float(b))
    except (OverflowError, ValueError, ZeroDivisionError):
        raise Refused("the power is too large") from None


OPERATORS: Mapping[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: divided,
    ast.FloorDiv: floored,
    ast.Mod: rest,
    ast.Pow: power,
}


def calculate(expression: str) -> str:
    """The result in digits; also of `"text".count("t")`. Raises Refused.

    >>> calculate("(1,200 - 0.1) * 3"), calculate('"strawberry".count("r")'), calculate("2 / 3")
    ('3599.7', '3', '0.666666666667')
    """
    if len(expression) > LONGEST:
        raise Refused(f"over {LONGEST} characters")
    if found := COUNT.fullmatch(expression):
        return str(found[2].count(found[4]))
    if not ARITHMETIC.fullmatch(expression):
        raise Refused("not an expression of numbers")
    plain = THOUSANDS.sub("", expression).strip()
    try:
        tree = ast.parse(plain, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise Refused("not an expression of numbers") from None
    return shown(worked_out(tree.body, plain, DEEPEST))


def worked_out(node: ast.expr, text: str, deepest: int) -> Fraction:
    """The value of a tree whose every inner value fits in MOST_BITS."""
    if deepest == 0:
        raise Refused(f"nested deeper than {DEEPEST}")
    if isinstance(node, ast.Constant):
        value = literal(ast.get_source_segment(text, node) or "")
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        value = worked_out(node.operand, text, deepest - 1)
        value = -value if isinstance(node.op, ast.USub) else value
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        left, right = (worked_out(side, text, deepest - 1) for side in (node.left, node.right))
        value = OPERATORS[type(node.op)](left, right)
    else:
        raise Refused("not an expression of numbers")
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MOST_BITS:
        raise Refused("the number is too large")
    return value


def literal(text: str) -> Fraction:
    """A number exactly as it is written."""
    found = LITERAL.fullmatch(text)
    if found is None or int(found[2] or 0) > MOST_EXPONENT:
        raise Refused("not a number, or one too large")
    return Fraction(text.replace("_", ""))


def shown(value: Fraction) -> str:
    """Whole numbers whole; others to twelve digits."""
    if value.denominator == 1:
        if abs(value) >= 10**MOST_DIGITS:
            raise Refused("the number is too large")
        return str(value.numerator)
    try:
        return f"{float(value):.{DIGITS}g}"
    except OverflowError:
        raise Refused("the number is too large") from None


class Voice(Encoder, Protocol):
    """A tokenizer that also turns ids back into text."""

    def decode(self, ids: Sequence[int]) -> str: ...


class Calculator:
    """What a request interjects: after a call, its result. A refusal gives the word `error`, and the model goes on."""

    def __init__(self, voice: Voice) -> None:
        self.voice = voice
        names = ("python_start", "python_end", "output_start", "output_end")
        self.start, self.end, self.opening, self.closing = (voice.specials[f"<|{name}|>"] for name in names)

    def __call__(self, ids: Sequence[int]) -> Sequence[int]:
        if ids[-1] != self.end or self.start not in ids:
            return ()
        begun = len(ids) - 1 - ids[::-1].index(self.start)
        if any(id >= min(self.voice.specials.values()) for id in ids[begun + 1 : -1]):
            return (self.opening, *self.voice.encode(REFUSED), self.closing)
        try:
            result = calculate(self.voice.decode(ids[begun + 1 : -1]))
        except Refused:
            result = REFUSED
        return (self.opening, *self.voice.encode(result), self.closing)
