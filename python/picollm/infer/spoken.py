"""An answer's tokens as words, calls and their results, while they come."""

from collections.abc import Iterable, Iterator

from picollm.conversation import Part, PartKind
from picollm.infer.engine import Speech, Token

Piece = tuple[PartKind, str]


class Spoken:
    """Says of each token what it adds to which kind of part; half a character waits for its other half.

    calls: False for a model that only continues text, to whom the marks of a call mean nothing.
    """

    def __init__(self, speech: Speech, *, calls: bool = True) -> None:
        self.speech = speech
        self.marks: dict[int, PartKind] = {}
        for kind in (PartKind.PYTHON, PartKind.OUTPUT) if calls else ():
            self.marks[speech.specials[f"<|{kind}_start|>"]] = kind
            self.marks[speech.specials[f"<|{kind}_end|>"]] = PartKind.TEXT
        self.kind = PartKind.TEXT
        self.stream = speech.stream()

    def push(self, token: int) -> Piece:
        """The kind of part that the token belongs to, and the characters that it completes there, maybe none."""
        if token not in self.marks:
            return self.kind, self.stream.push(token)
        ended = self.finish()
        self.kind, self.stream = self.marks[token], self.speech.stream()
        return ended

    def finish(self) -> Piece:
        return self.kind, self.stream.finish()


def spoken(tokens: Iterable[Token], speech: Speech) -> Iterator[Piece]:
    """The pieces of an answer, none of them empty."""
    heard = Spoken(speech)
    for token in tokens:
        kind, text = heard.push(token.id)
        if text:
            yield kind, text
    kind, text = heard.finish()
    if text:
        yield kind, text


def parts_of(pieces: Iterable[Piece]) -> tuple[Part, ...]:
    """Pieces of one kind that follow each other are one part."""
    parts: list[Part] = []
    for kind, text in pieces:
        if parts and parts[-1].kind is kind:
            parts[-1] = Part(kind, parts[-1].text + text)
        else:
            parts.append(Part(kind, text))
    return tuple(parts)


def shown(pieces: Iterable[Piece]) -> Iterator[str]:
    """For a terminal: words as they are, a call and its result as `[3 + 4 = 7]`."""
    last = PartKind.TEXT
    for kind, text in pieces:
        if kind is not last:
            yield BETWEEN[last, kind]
            last = kind
        yield text
    if last is not PartKind.TEXT:
        yield "]"


TEXT, PYTHON, OUTPUT = PartKind.TEXT, PartKind.PYTHON, PartKind.OUTPUT
BETWEEN = {
    (TEXT, PYTHON): "[",
    (TEXT, OUTPUT): "[= ",
    (PYTHON, OUTPUT): " = ",
    (PYTHON, TEXT): "]",
    (OUTPUT, TEXT): "]",
    (OUTPUT, PYTHON): "] [",
}
