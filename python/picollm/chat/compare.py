"""The same prompt to two models, their answers side by side: a base model continues, a chat model answers (K46)."""

import textwrap
from collections.abc import Callable, Iterator
from itertools import zip_longest

from picollm.chat.repl import Talk
from picollm.errors import PicoError

GAP = " │ "
NARROWEST = 20


def columns(left: str, right: str, width: int) -> Iterator[str]:
    """Two texts beside each other in lines of `width` characters, each wrapped to its half.

    >>> list(columns("one two three", "ok", 21))
    ['one two   │ ok', 'three     │']
    """
    half = max((width - len(GAP)) // 2, 1)
    for one, other in zip_longest(wrapped(left, half), wrapped(right, half), fillvalue=""):
        yield f"{one:<{half}}{GAP}{other}".rstrip()


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width` characters; the first of each keeps its indentation."""
    lines = [textwrap.wrap(line, width, drop_whitespace=False) or [""] for line in text.expandtabs(4).split("\n")]
    return [(part if number == 0 else part.lstrip()).rstrip() for line in lines for number, part in enumerate(line)]


def compare(
    talks: tuple[Talk, Talk], names: tuple[str, str], prompts: Iterator[str], write: Callable[[str], None], width: int
) -> None:
    """Put every prompt to both; an error is an answer too, and the next prompt follows."""
    width = max(width, 2 * NARROWEST + len(GAP))
    for line in columns(names[0], names[1], width):
        write(f"{line}\n")
    for prompt in prompts:
        one, other = (answer(talk, prompt) for talk in talks)
        write(f"{'─' * width}\n> {prompt}\n")
        for line in columns(one, other, width):
            write(f"{line}\n")


def answer(talk: Talk, prompt: str) -> str:
    """One answer to a prompt that stands alone."""
    talk.forget()
    try:
        return "".join(talk.reply(prompt)).strip("\n") or "(nothing)"
    except PicoError as error:
        return f"({error.message})"
