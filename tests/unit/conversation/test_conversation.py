"""Rendering: lengths, masks, and the promise that text never becomes a control token."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picollm.conversation import Conversation, Message, Part, PartKind, Role, end_of_turn, render, render_prompt
from picollm.errors import CheckError, UsageError

NAMES = ["bos", *(f"{who}_{end}" for who in ("user", "assistant", "python", "output") for end in ("start", "end"))]


class Bytes:
    """The smallest tokenizer: 256 bytes, then the nine specials."""

    def __init__(self) -> None:
        self.specials = {f"<|{name}|>": 256 + index for index, name in enumerate(NAMES)}

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8", "surrogatepass"))


BYTES = Bytes()
SPECIAL = dict(zip(NAMES, BYTES.specials.values(), strict=True))
texts = st.one_of(st.text(min_size=1), st.sampled_from(list(BYTES.specials)))
parts = st.lists(st.builds(Part, st.sampled_from(PartKind), texts), min_size=1, max_size=4).map(tuple)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    messages = [Message.of("system", draw(texts))] if draw(st.booleans()) else []
    for index in range(draw(st.integers(1, 6))):
        messages.append(Message(Role.ASSISTANT, draw(parts)) if index % 2 else Message.of("user", draw(texts)))
    return Conversation(tuple(messages))


def test_a_turn_each_renders_to_the_documented_ids_and_mask() -> None:
    made = render(Conversation.of("hi", "yo", system="be"), BYTES)
    ids = [SPECIAL["bos"], SPECIAL["user_start"], *b"be\n\nhi", SPECIAL["user_end"]]
    ids += [SPECIAL["assistant_start"], *b"yo", SPECIAL["assistant_end"]]
    assert list(made.ids) == ids
    assert list(made.mask) == [0] * 10 + [1, 1, 1]


def test_a_call_is_trained_on_and_its_output_is_not() -> None:
    answer = Message(Role.ASSISTANT, (Part(PartKind.PYTHON, "1"), Part(PartKind.OUTPUT, "2"), Part(PartKind.TEXT, "3")))
    made = render(Conversation((Message.of("user", "x"), answer)), BYTES)
    said = [token for token, said in zip(made.ids, made.mask, strict=True) if said]
    assert said == [SPECIAL["python_start"], *b"1", SPECIAL["python_end"], *b"3", SPECIAL["assistant_end"]]


@given(conversations())
def test_the_mask_covers_exactly_what_the_assistant_says(conversation: Conversation) -> None:
    made = render(conversation, BYTES)
    expected = 0
    for message in conversation.turns:
        if message.role is Role.ASSISTANT:
            expected += 1
            for part in message.parts:
                expected += {PartKind.TEXT: len(BYTES.encode(part.text)), PartKind.OUTPUT: 0}.get(
                    part.kind, len(BYTES.encode(part.text)) + 2
                )
    assert len(made.ids) == len(made.mask)
    assert sum(made.mask) == expected


@pytest.mark.row("K7")
@given(conversations())
def test_no_text_can_bring_in_a_control_token(conversation: Conversation) -> None:
    ids = [token for token in render(conversation, BYTES).ids if token >= 256]
    structure = [SPECIAL["bos"]]
    for message in conversation.turns:
        if message.role is Role.USER:
            structure += [SPECIAL["user_start"], SPECIAL["user_end"]]
            continue
        inner = [f"{part.kind}_{end}" for part in message.parts if part.kind != "text" for end in ("start", "end")]
        structure += [SPECIAL["assistant_start"], *(SPECIAL[name] for name in inner), SPECIAL["assistant_end"]]
    assert ids == structure


@given(conversations())
def test_json_and_back_is_the_same_conversation(conversation: Conversation) -> None:
    again = Conversation.from_json(json.loads(json.dumps(conversation.to_json())))
    assert again == conversation
    assert Conversation.from_json(conversation.to_json()["messages"]) == conversation


@given(conversations())
def test_a_prompt_is_the_rendering_up_to_the_answer(conversation: Conversation) -> None:
    if conversation.turns[-1].role is Role.ASSISTANT:
        with pytest.raises(UsageError):
            render_prompt(conversation, BYTES)
        return
    answered = render(conversation.and_then(Message.of("assistant", "ok")), BYTES)
    prompt = render_prompt(conversation, BYTES)
    assert answered.ids[: len(prompt)] == prompt
    assert sum(answered.mask[len(prompt) :]) == len(answered.ids) - len(prompt)
    assert answered.ids[-1] in end_of_turn(BYTES)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({}, "no list of messages"),
        ([], "without a user message"),
        ([{"role": "system", "content": "x"}], "without a user message"),
        ([{"role": "user", "content": "x"}] * 2, "message 1 is from user, expected assistant"),
        ([{"role": "system", "content": "x"}] * 2, "message 1 is from system, expected user"),
        ([{"role": "tool", "content": "x"}], "message 0 has role 'tool'"),
        ([{"role": ["user"], "content": "x"}], "message 0 has role"),
        ([{"role": "user", "content": ""}], "message 0: an empty user message"),
        ([{"role": "user", "content": None}], "content is NoneType"),
        ([{"role": "user", "content": [{"type": "python", "text": "1"}]}], "holds text and nothing else"),
        ([{"role": "user", "content": [{"type": "image", "text": "1"}]}], "a part is"),
        (["hi"], "message 0 is not an object"),
    ],
)
def test_a_bad_row_is_refused_with_its_place(row: object, said: str) -> None:
    with pytest.raises(CheckError, match=said):
        Conversation.from_json(row)


def test_forgetting_the_oldest_exchange_keeps_the_system_message() -> None:
    shorter = Conversation.of("a", "b", "c", system="s").without_oldest_exchange()
    assert shorter == Conversation.of("c", system="s")
    with pytest.raises(CheckError):
        shorter.without_oldest_exchange()
