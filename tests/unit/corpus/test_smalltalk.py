"""The chats: the same for the same seed, true, and silent about what is held out."""

import ast
import json
import operator
from pathlib import Path

import pytest

from picollm.conversation import Conversation
from picollm.corpus.smalltalk import IDENTITY_FILE, Identity, Smalltalk, first_sentence, smalltalk, to_jsonl
from picollm.errors import UsageError


@pytest.fixture(scope="module")
def made() -> Smalltalk:
    return smalltalk()


def test_the_same_seed_gives_the_same_chats_and_another_seed_others(made: Smalltalk) -> None:
    lines = list(to_jsonl(made.chats(200)))
    assert lines == list(to_jsonl(smalltalk().chats(200)))
    assert lines[:50] == list(to_jsonl(made.chats(50)))
    assert lines != list(to_jsonl(smalltalk(seed=7).chats(200)))


def test_every_line_is_a_conversation_that_ends_with_an_answer(made: Smalltalk) -> None:
    for line in to_jsonl(made.chats(500)):
        conversation = Conversation.from_json(json.loads(line))
        assert len(conversation.turns) % 2 == 0


def test_a_tenth_is_held_out_and_never_asked_in_a_chat(made: Smalltalk) -> None:
    for kind in ("sum", "function"):
        trained = [fact for fact in made.trained if fact.kind == kind]
        held = [fact for fact in made.held_out if fact.kind == kind]
        assert len(held) == (len(trained) + len(held)) // 10 > 0
        assert not {fact.key for fact in trained} & {fact.key for fact in held}
    asked = {message["content"] for chat in made.chats(3000) for message in chat[::2]}
    assert not asked & {ask for fact in made.held_out for ask in fact.asks}


def test_every_sum_is_right_and_known_functions_say_what_python_says(made: Smalltalk) -> None:
    facts = {fact.key: fact.answer for fact in made.trained + made.held_out}
    signs = {"+": operator.add, "-": operator.sub}
    assert sum(fact.kind == "sum" for fact in made.trained + made.held_out) == 77
    for key, answer in facts.items():
        if key[0].isdigit():
            left, sign, right = key.split()
            assert int(answer) == signs[sign](int(left), int(right))
    assert facts["str.split"] in " ".join((str.split.__doc__ or "").split())
    assert "textwrap.dedent" in facts


def test_the_bot_says_its_name(made: Smalltalk) -> None:
    said = {chat[i + 1]["content"] for chat in made.chats(300) for i in (0,) if chat[i]["content"] == "who are you?"}
    assert said == {"I am Pico, a tiny model trained on this computer a few minutes ago."}


def test_a_renamed_bot_answers_by_its_new_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(IDENTITY_FILE.read_text().replace('"Pico"', '"Ada"'))
    text = "".join(to_jsonl(smalltalk(identity=Identity.load(path)).chats(400)))
    assert "I am Ada" in text
    assert "Pico" not in text


@pytest.mark.parametrize(
    "text",
    ["name =", 'name = "a"', 'name = "a"\nmaker = "b"\n[[topic]]\nkind = "identity"\nasks = ["?"]\nanswers = []', ""],
)
def test_a_broken_identity_file_is_named_with_what_is_wrong(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"broken\.toml"):
        Identity.load(path)


def test_source_is_parsed_and_never_run(tmp_path: Path) -> None:
    source = 'raise SystemExit("run!")\ndef fill(x):\n    """Fill the cup to the brim. And more."""\n'
    ast.parse(source)
    (tmp_path / "textwrap.py").write_text(source)
    facts = {fact.key: fact.answer for fact in smalltalk(stdlib=tmp_path).trained}
    facts |= {fact.key: fact.answer for fact in smalltalk(stdlib=tmp_path).held_out}
    assert facts["textwrap.fill"] == "Fill the cup to the brim."


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("Return a thing of note, i.e. this one.  More.", "Return a thing of note, i.e. this one."),
        ("f(x) -> int\nf(x, y) -> int\n\nReturn\nthe number.", "Return the number."),
        ("Return no full stop here\n\nOther", "Return no full stop here."),
        ("", None),
        ("f(x) -> int", None),
        ("Short.", None),
        ("x" * 300, None),
    ],
)
def test_a_first_sentence_is_one_line_or_nothing(docstring: str, sentence: str | None) -> None:
    assert first_sentence(docstring) == sentence
