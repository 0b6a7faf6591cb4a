"""Conversations, and the one place where they become ids and a loss mask.

The format is code, not a template (K8). A document is `<|bos|>`, then per turn

    <|user_start|> text <|user_end|>   <|assistant_start|> text <|assistant_end|>

A system message is put before the text of the first user turn, a blank line between. Text is always encoded as
ordinary text: a user who types `<|user_start|>` sends those characters, never the control token. The mask is 1 on
what the model is to say (the assistant's text, its Python calls and its end token) and 0 on all else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from picollm.errors import CheckError, UsageError

BOS = "<|bos|>"
SYSTEM_SEPARATOR = "\n\n"


class Role(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class PartKind(StrEnum):
    """What a stretch of an assistant turn is: its words, a call it makes, or what the call gave back."""

    TEXT = "text"
    PYTHON = "python"
    OUTPUT = "output"


class Encoder(Protocol):
    """What rendering needs of a tokenizer."""

    @property
    def specials(self) -> Mapping[str, int]:
        """The id of each special token by its name, such as `<|bos|>`."""

    def encode(self, text: str) -> list[int]:
        """The ids of ordinary text: never a special token."""


@dataclass(frozen=True)
class Part:
    kind: PartKind
    text: str


@dataclass(frozen=True)
class Message:
    """One turn. Only an assistant's may hold more than one part, or a part that is not text."""

    role: Role
    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if not any(part.text for part in self.parts):
            raise CheckError(f"an empty {self.role} message")
        if self.role is not Role.ASSISTANT and [part.kind for part in self.parts] != [PartKind.TEXT]:
            raise CheckError(f"a {self.role} message holds text and nothing else")

    @classmethod
    def of(cls, role: Role | str, text: str) -> "Message":
        return cls(Role(role), (Part(PartKind.TEXT, text),))

    @property
    def text(self) -> str:
        """The words of the turn, calls and their outputs left out."""
        return "".join(part.text for part in self.parts if part.kind is PartKind.TEXT)


@dataclass(frozen=True)
class Conversation:
    """An optional system message, then user and assistant in turns, the user first."""

    messages: tuple[Message, ...]

    def __post_init__(self) -> None:
        turns = self.turns
        if not turns:
            raise CheckError("a conversation without a user message")
        for index, message in enumerate(turns):
            expected = Role.ASSISTANT if index % 2 else Role.USER
            if message.role is not expected:
                place = index + len(self.messages) - len(turns)
                raise CheckError(
                    f"message {place} is from {message.role}, expected {expected}",
                    hint="turns alternate, the user first; a system message may come before them",
                )

    @classmethod
    def of(cls, *texts: str, system: str | None = None) -> "Conversation":
        """`of("hi", "Hello!")`: user and assistant by turns."""
        head = () if system is None else (Message.of(Role.SYSTEM, system),)
        roles = (Role.USER, Role.ASSISTANT)
        return cls(head + tuple(Message.of(roles[index % 2], text) for index, text in enumerate(texts)))

    @classmethod
    def from_json(cls, value: object) -> "Conversation":
        """Read `{"messages": [{"role", "content"}, …]}` or the bare list. Raises CheckError with the message's index.

        `content` is a string or, for an assistant, a list of `{"type": "text|python|output", "text": …}`.
        """
        messages = value.get("messages") if isinstance(value, dict) else value
        if not isinstance(messages, list):
            raise CheckError(
                "no list of messages", hint='a row is {"messages": [{"role": "user", "content": "hi"}, …]}'
            )
        return cls(tuple(read_message(index, message) for index, message in enumerate(messages)))

    def to_json(self) -> dict[str, object]:
        """The inverse of `from_json`, with plain text as a string."""
        return {"messages": [write_message(message) for message in self.messages]}

    @property
    def system(self) -> str | None:
        first = self.messages[0] if self.messages else None
        return first.text if first is not None and first.role is Role.SYSTEM else None

    @property
    def turns(self) -> tuple[Message, ...]:
        """The messages without the system message."""
        return self.messages[1:] if self.system is not None else self.messages

    def and_then(self, message: Message) -> "Conversation":
        return Conversation((*self.messages, message))

    def without_oldest_exchange(self) -> "Conversation":
        """The system message stays; the first question and its answer go. Raises when only one exchange is there."""
        head = self.messages[: len(self.messages) - len(self.turns)]
        return Conversation(head + self.turns[2:])


def read_message(index: int, value: object) -> Message:
    if not isinstance(value, dict):
        raise CheckError(f"message {index} is not an object")
    role, content = value.get("role"), value.get("content")
    if role not in list(Role):
        raise CheckError(f"message {index} has role {role!r}, expected one of {', '.join(Role)}")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list):
        raise CheckError(f"message {index} has no text: content is {type(content).__name__}")
    try:
        return Message(Role(role), tuple(read_part(part) for part in parts))
    except CheckError as error:
        raise CheckError(f"message {index}: {error.message}", hint=error.hint) from error


def read_part(value: object) -> Part:
    if not isinstance(value, dict) or value.get("type") not in list(PartKind) or not isinstance(value.get("text"), str):
        raise CheckError(f"a part is {{'type': one of {', '.join(PartKind)}, 'text': a string}}, found {value!r:.80}")
    return Part(PartKind(value["type"]), value["text"])


def write_message(message: Message) -> dict[str, object]:
    plain = [part.kind for part in message.parts] == [PartKind.TEXT]
    content = message.text if plain else [write_part(part) for part in message.parts]
    return {"role": str(message.role), "content": content}


def write_part(part: Part) -> dict[str, str]:
    return {"type": str(part.kind), "text": part.text}


@dataclass(frozen=True)
class Rendered:
    """`mask[i]` is 1 where `ids[i]` is a token that the model is trained to say. Both (tokens,)."""

    ids: tuple[int, ...]
    mask: tuple[int, ...]

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.mask)


class Canvas:
    """Ids and mask while they grow."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.ids: list[int] = []
        self.mask: list[int] = []

    def special(self, name: str, *, said: bool = False) -> None:
        self.ids.append(self.encoder.specials[name])
        self.mask.append(int(said))

    def text(self, text: str, *, said: bool = False) -> None:
        ids = self.encoder.encode(text)
        self.ids += ids
        self.mask += [int(said)] * len(ids)

    def user(self, text: str) -> None:
        self.special("<|user_start|>")
        self.text(text)
        self.special("<|user_end|>")

    def assistant(self, parts: Sequence[Part]) -> None:
        self.special("<|assistant_start|>")
        for part in parts:
            if part.kind is PartKind.TEXT:
                self.text(part.text, said=True)
                continue
            said = part.kind is PartKind.PYTHON  # a call is the model's; its output comes from outside
            self.special(f"<|{part.kind}_start|>", said=said)
            self.text(part.text, said=said)
            self.special(f"<|{part.kind}_end|>", said=said)
        self.special("<|assistant_end|>", said=True)


def render(conversation: Conversation, encoder: Encoder) -> Rendered:
    """The whole conversation as one document, with its loss mask."""
    canvas = Canvas(encoder)
    canvas.special(BOS)
    before = "" if conversation.system is None else conversation.system + SYSTEM_SEPARATOR
    for message in conversation.turns:
        if message.role is Role.USER:
            canvas.user(before + message.text)
            before = ""
        else:
            canvas.assistant(message.parts)
    return Rendered(tuple(canvas.ids), tuple(canvas.mask))


def render_prompt(conversation: Conversation, encoder: Encoder) -> tuple[int, ...]:
    """What the model reads before it answers: a conversation that ends with the user, and `<|assistant_start|>`."""
    if conversation.turns[-1].role is not Role.USER:
        raise UsageError("nothing to answer: the last message is the assistant's")
    return (*render(conversation, encoder).ids, encoder.specials["<|assistant_start|>"])


def end_of_turn(encoder: Encoder) -> frozenset[int]:
    """Ids after which the assistant's turn is over: its end token, and any token that only another party may write."""
    names = (BOS, "<|user_start|>", "<|user_end|>", "<|assistant_start|>", "<|assistant_end|>", "<|output_start|>")
    return frozenset(encoder.specials[name] for name in names)
