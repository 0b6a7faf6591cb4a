"""Ids against the textbook and against `tokenizers`; files that are refused; text that always comes back."""

import gzip
import json
import os
import random
import signal
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tests.reference import textbook

from picollm import _rustbpe
from picollm.conversation import Conversation, Message, Part, PartKind, Role, render, render_prompt
from picollm.errors import CorpusTooSmallError, MissingError, ShardFormatError, UsageError
from picollm.tok.special import CHAT_TEMPLATE, SPECIALS
from picollm.tok.tokenizer import Tokenizer
from picollm.tok.train import train_on_texts

texts = st.text(
    st.sampled_from("aabbc theZé日🙂\u0301\u200d'sS12²\n\r\t \u00a0!<|_user") | st.characters(codec="utf-8")
)


def theirs(tokenizer: Tokenizer, path: Path) -> tokenizers.Tokenizer:
    tokenizer.save(path)
    read = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    read.encode_special_tokens = True  # text that spells a special token is text
    return read


@pytest.fixture(scope="session")
def vectors(shared: Path) -> list[str]:
    lines = gzip.decompress((shared / "data/tokenizer/vectors.jsonl.gz").read_bytes()).splitlines()
    blns: list[str] = json.loads((shared / "data/tokenizer/unicode/blns.json").read_bytes())
    return [json.loads(line)["text"] for line in lines] + blns


@given(texts)
def test_encoding_agrees_with_the_textbook(tiny: Tokenizer, text: str) -> None:
    pieces = _rustbpe.split("picollm", text)
    assert tiny.encode(text) == [id for piece in pieces for id in textbook.encode_piece(tiny.core.merges, piece)]


@given(st.lists(texts, max_size=4), st.integers(0, 30))
def test_training_agrees_with_the_textbook(documents: list[str], merges: int) -> None:
    counted = Counter(piece for text in documents for piece in _rustbpe.split("picollm", text))
    expected = textbook.train(counted, merges)
    if documents:
        assert train_on_texts(documents, 265 + len(expected)).core.merges == expected
    if documents and len(expected) < merges:
        with pytest.raises(CorpusTooSmallError, match=f"yields {265 + len(expected)} tokens"):
            train_on_texts(documents, 265 + merges)


@pytest.mark.parametrize("pattern", ["picollm", "cl100k", "gpt2"])
def test_tokenizers_reads_our_file_and_gives_the_same_ids(pattern: str, vectors: list[str], tmp_path: Path) -> None:
    ours = train_on_texts(vectors, 2000, pattern=pattern)  # type: ignore[arg-type]
    other = theirs(ours, tmp_path)
    assert other.get_vocab_size() == 2000
    assert [other.token_to_id(name) for name in SPECIALS] == list(ours.specials.values()) == list(range(1991, 2000))
    for text, encoded in zip(vectors, other.encode_batch(vectors), strict=True):
        assert ours.encode(text) == encoded.ids, text


@pytest.mark.parametrize("pattern", ["picollm", "gpt2"])
def test_the_huggingface_tie_order_gives_their_merges_one_by_one(pattern: str, vectors: list[str]) -> None:
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(_rustbpe.pattern_regex(pattern)), behavior="isolated")
    alphabet = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    other = tokenizers.Tokenizer(tokenizers.models.BPE())
    other.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, alphabet])
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=1500, show_progress=False, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()
    )
    other.train_from_iterator(vectors, trainer)
    ours = train_on_texts(vectors, 1509, pattern=pattern, ties="huggingface")  # type: ignore[arg-type]
    merges = json.loads(ours.core.to_json())["model"]["merges"]
    assert merges == json.loads(other.to_str())["model"]["merges"]


@pytest.mark.row("T1")
@given(st.binary())
def test_any_bytes_come_back(tiny: Tokenizer, data: bytes) -> None:
    ids = tiny.encode(data)
    assert tiny.decode_bytes(ids) == data
    assert tiny.decode(ids) == data.decode(errors="replace")
    stream = tiny.stream()
    assert "".join(map(stream.push, ids)) + stream.finish() == data.decode(errors="replace")


@pytest.mark.slow
@pytest.mark.row("T3")
@pytest.mark.parametrize(("name", "regex", "lead"), [("L", r"\p{L}", "a"), ("N", r"\p{N}", "1"), ("S", r"\s", "\n")])
def test_every_code_point_has_the_class_that_tiktoken_gives_it(name: str, regex: str, lead: str) -> None:
    bytes_only = {bytes([byte]): byte for byte in range(256)}
    one_by_one = tiktoken.Encoding(name, pat_str=regex, mergeable_ranks=bytes_only, special_tokens={})
    scalars = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    expected = set(one_by_one.decode_bytes(one_by_one.encode_ordinary("".join(scalars))).decode())
    assert {c for c in scalars if len(_rustbpe.split("gpt2", lead + c)) == 1} == expected


@pytest.mark.row("T9")
def test_ctrl_c_ends_a_training() -> None:
    def press(seen: Mapping[str, int]) -> None:
        signal.raise_signal(signal.SIGINT)

    letters = random.Random(1).choices("abcdefghij   ", k=6_000_000)  # over a second of work, release build
    with pytest.raises(KeyboardInterrupt):
        train_on_texts(["".join(letters)], 60_000, progress=press)


@pytest.mark.row("T8")
@given(st.text(st.characters(categories=["Cs", "L", "Zs"])))
def test_lone_surrogates_are_bytes_like_any_other(tiny: Tokenizer, text: str) -> None:
    assert tiny.decode_bytes(tiny.encode(text)) == text.encode("utf-8", "surrogatepass")


@given(st.lists(texts | st.binary(), max_size=30), st.integers(1, 4))
def test_a_batch_is_its_texts_one_by_one(tiny: Tokenizer, batch: list[str | bytes], workers: int) -> None:
    ids, offsets = tiny.encode_batch(batch, workers=workers)
    assert (ids.dtype, offsets.dtype, len(offsets)) == (np.uint32, np.int64, len(batch) + 1)
    for i, text in enumerate(batch):
        assert ids[offsets[i] : offsets[i + 1]].tolist() == tiny.encode(text)


@pytest.mark.row("T12")
@given(st.lists(st.sampled_from([*SPECIALS, "<|", "|>", "bos", " "])).map("".join))
def test_text_never_becomes_a_special_token(tiny: Tokenizer, text: str) -> None:
    assert all(id < tiny.bos for id in tiny.encode(text))


def test_byte_lengths_are_those_of_the_tokens_and_nothing_for_specials(tiny: Tokenizer) -> None:
    lengths = tiny.byte_lengths()
    assert (lengths.dtype, lengths.shape) == (np.int32, (400,))
    assert lengths.tolist() == [len(tiny.token_bytes(id)) for id in range(tiny.bos)] + [0] * len(SPECIALS)


@pytest.mark.row("T8")
@pytest.mark.parametrize("id", [400, 2**32 - 1])
def test_an_id_outside_the_vocabulary_is_named(tiny: Tokenizer, id: int) -> None:
    for use in (tiny.token_bytes, lambda id: tiny.decode([1, id]), tiny.stream().push):
        with pytest.raises(UsageError, match=f"token id {id} is outside the vocabulary of 400"):
            use(id)


@pytest.mark.parametrize("size", [0, 264, 65_537])
def test_a_vocabulary_that_cannot_be_is_refused(size: int) -> None:
    with pytest.raises(UsageError):
        train_on_texts(["text"], size)


def test_a_source_without_text_is_missing_text() -> None:
    with pytest.raises(MissingError, match="no training text"):
        train_on_texts([], 265)


def test_a_saved_tokenizer_is_the_same_when_loaded(tiny: Tokenizer, tmp_path: Path) -> None:
    tiny.save(tmp_path / "t")
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == [
        ".lock", "manifest.json", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    for path in (tmp_path / "t", tmp_path / "t" / "tokenizer.json"):
        again = Tokenizer.load(path)
        assert (again.fingerprint, again.core.merges) == (tiny.fingerprint, tiny.core.merges)
    manifest = json.loads((tmp_path / "t" / "manifest.json").read_bytes())
    assert manifest["fingerprint"] == tiny.fingerprint
    assert (manifest["pattern"], manifest["ties"], manifest["vocab_size"]) == ("picollm", "rustbpe", 400)


@pytest.mark.row("T10")
@given(st.data())
def test_a_damaged_file_is_refused_or_still_whole(tiny: Tokenizer, data: st.DataObject) -> None:
    good = bytearray(tiny.core.to_json())
    at = data.draw(st.integers(0, len(good) - 1))
    good[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        read = _rustbpe.Tokenizer.from_json(bytes(good))
    except ShardFormatError:
        return
    assert read.decode_bytes(read.encode("abc <|bos|>")) == b"abc <|bos|>"


def test_what_is_no_tokenizer_is_an_error_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(MissingError) as missing:
        Tokenizer.load(tmp_path)
    assert missing.value.hint == "picollm tok train --vocab-size 65536"
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ShardFormatError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)
    os.truncate(tmp_path / "tokenizer.json", 17 * 2**20)
    with pytest.raises(ShardFormatError, match="more than"):
        Tokenizer.load(tmp_path)


turns = st.text("héj <|user_end|>\n'", min_size=1)
answers = st.lists(st.builds(Part, st.sampled_from(PartKind), turns), min_size=1, max_size=3)


@pytest.fixture(scope="session")
def template() -> Any:
    jinja2 = pytest.importorskip("jinja2", reason="the template engine of transformers")
    return jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(CHAT_TEMPLATE)


@pytest.mark.row("K8")
@given(st.none() | turns, st.lists(st.tuples(turns, answers), max_size=3), turns)
def test_the_chat_template_renders_as_we_do(
    tiny: Tokenizer, template: Any, system: str | None, pairs: list[tuple[str, list[Part]]], last: str
) -> None:
    messages = [] if system is None else [Message.of(Role.SYSTEM, system)]
    for question, answer in pairs:
        messages += [Message.of(Role.USER, question), Message(Role.ASSISTANT, tuple(answer))]
    conversation = Conversation((*messages, Message.of(Role.USER, last)))
    for prompt in (True, False):
        shown = template.render(messages=conversation.to_json()["messages"], add_generation_prompt=prompt)
        ids = render_prompt(conversation, tiny) if prompt else render(conversation, tiny).ids
        assert shown == tiny.decode(ids)
