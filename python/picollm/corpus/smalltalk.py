"""The quickstart's chats: short, made from a seed on the spot, about what is already on this computer.

Greetings and who-are-you come from `identity.toml`; sums from the numbers 0 to 6; "what does str.split do?" is
answered by the first sentence of the function's own docstring, taken from the interpreter's built-ins and from the
parsed source of the standard library, which is never imported nor run. A tenth of the sums and of the functions is
held out of every chat, so that knowing can be told from having seen.
"""

import ast
import builtins
import json
import random
import re
import sysconfig
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from types import BuiltinFunctionType

from picollm.errors import UsageError

Message = dict[str, str]  # {"role": …, "content": …}: a row of the common chat format

IDENTITY_FILE = Path(__file__).with_name("identity.toml")
DEFAULT_SEED = 1337
HELD_OUT = 10  # one fact in ten
LARGEST_NUMBER = 6
LONGEST_SENTENCE = 110  # characters; a chat of two questions then fits a row of 256 tokens
SHARES = {"identity": 0.16, "greeting": 0.08, "sum": 0.28, "function": 0.48}  # of the questions
MORE_TURNS = 0.35  # chance that a chat goes on after an answer
MOST_TURNS = 3
# Few enough that each is met some twenty times in 200,000 tokens: with twice as many functions none was learned.
BUILTIN_TYPES: tuple[type, ...] = (str, list, dict)
MODULES = ("bisect", "heapq", "textwrap")
SUM_ASKS = ("what is {}?", "what is {}?", "What is {}?", "how much is {}?", "{}", "{} = ?")
FUNCTION_ASKS = ("what does {} do?", "what does {} do?", "What does {} do?", "what is {} for?", "explain {}")


@dataclass(frozen=True)
class Topic:
    """Questions that mean the same, and what may be answered. `kind` is identity, greeting or closing."""

    kind: str
    weight: int
    asks: tuple[str, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Identity:
    """Who the bot is, from a TOML file of the form of `identity.toml`."""

    name: str
    maker: str
    topics: tuple[Topic, ...]

    @classmethod
    def load(cls, path: Path = IDENTITY_FILE) -> "Identity":
        """Raises UsageError when the file is not TOML or lacks a field."""
        try:
            with path.open("rb") as file:
                said = tomllib.load(file)
            name, maker = str(said["name"]), str(said["maker"])
            topics = tuple(read_topic(topic, name, maker) for topic in said["topic"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{path}: not an identity file: {error!r:.200}", hint=f"start from a copy of {IDENTITY_FILE}"
            ) from error
        missing = {"identity", "greeting", "closing"} - {topic.kind for topic in topics}
        if missing:
            raise UsageError(f"{path}: no topic of kind {', '.join(sorted(missing))}")
        return cls(name, maker, topics)

    def of_kind(self, kind: str) -> list[Topic]:
        return [topic for topic in self.topics if topic.kind == kind]


def read_topic(said: dict[str, object], name: str, maker: str) -> Topic:
    def texts(field: str) -> tuple[str, ...]:
        listed = said[field]
        if not isinstance(listed, list) or not listed or not all(isinstance(text, str) and text for text in listed):
            raise ValueError(f"{field} is not a list of texts")
        return tuple(text.replace("{name}", name).replace("{maker}", maker) for text in listed)

    weight = said.get("weight", 1)
    if not isinstance(weight, int) or weight < 1:
        raise ValueError(f"weight {weight!r} is not a positive whole number")
    return Topic(str(said["kind"]), weight, texts("asks"), texts("answers"))


@dataclass(frozen=True)
class Fact:
    """Something with one right answer: `key` is `3 + 4` or `str.split`; `asks` are its questions."""

    kind: str
    key: str
    asks: tuple[str, ...]
    answer: str


def sums() -> list[Fact]:
    """Additions of two digits, and subtractions that stay above zero."""
    facts = []
    for a in range(LARGEST_NUMBER + 1):
        for b in range(LARGEST_NUMBER + 1):
            pairs = [(f"{a} + {b}", a + b)] + ([(f"{a} - {b}", a - b)] if a >= b else [])
            for key, answer in pairs:
                facts.append(Fact("sum", key, tuple(ask.format(key) for ask in SUM_ASKS), str(answer)))
    return facts


SIGNATURE = re.compile(r"[A-Za-z_][\w.]*\(.*\)( -+> .*)?")
SENTENCE_END = re.compile(r"(?<!i\.e)(?<!e\.g)\.(?=\s|$)")


def first_sentence(docstring: str) -> str | None:
    """The first sentence of a docstring, on one line, or None if it has none worth saying.

    Lines that only repeat the call (`max(iterable) -> value`) are passed over.

    >>> first_sentence("S.find(sub) -> int\\n\\nReturn the lowest index.  Or -1.")
    'Return the lowest index.'
    """
    lines = docstring.strip().splitlines()
    while lines and (not lines[0].strip() or SIGNATURE.fullmatch(lines[0].strip())):
        lines.pop(0)
    paragraph = " ".join("\n".join(lines).split("\n\n")[0].split())
    end = SENTENCE_END.search(paragraph)
    sentence = (paragraph[: end.start()] if end else paragraph).rstrip(":;,") + "."
    worth = 12 <= len(sentence) <= LONGEST_SENTENCE and sentence[0].isupper() and sentence.isascii()
    return sentence if worth and not re.search(r"->|>>>|\(\.\.\.", sentence) else None


def builtin_docstrings() -> Iterator[tuple[str, str]]:
    for name, function in sorted(vars(builtins).items()):
        if isinstance(function, BuiltinFunctionType) and not name.startswith("_"):
            yield name, function.__doc__ or ""
    for owner in BUILTIN_TYPES:
        for name in sorted(vars(owner)):
            method = getattr(owner, name)
            if not name.startswith("_") and callable(method):
                yield f"{owner.__name__}.{name}", method.__doc__ or ""


def source_docstrings(stdlib: Path) -> Iterator[tuple[str, str]]:
    """Public functions at the top of the chosen modules; a module without readable source is passed over."""
    for module in MODULES:
        path = stdlib / f"{module}.py"
        if not path.is_file():
            continue
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                yield f"{module}.{node.name}", ast.get_docstring(node) or ""


def functions(stdlib: Path) -> list[Fact]:
    """What each function does, by its own docstring; functions that say nothing short are left out."""
    facts = {}
    for key, docstring in [*builtin_docstrings(), *source_docstrings(stdlib)]:
        if answer := first_sentence(docstring):
            facts[key] = Fact("function", key, tuple(ask.format(key) for ask in FUNCTION_ASKS), answer)
    return list(facts.values())


def hold_out(facts: Iterable[Fact], seed: int) -> tuple[tuple[Fact, ...], tuple[Fact, ...]]:
    """(trained, held out): one in ten is held out, chosen by a hash of seed and key, whatever the order."""

    def draw(fact: Fact) -> bytes:
        return blake2b(f"{seed}/{fact.kind}/{fact.key}".encode(), digest_size=16).digest()

    ordered = sorted(facts, key=draw)
    cut = len(ordered) // HELD_OUT
    return tuple(ordered[cut:]), tuple(ordered[:cut])


@dataclass(frozen=True)
class Smalltalk:
    """All that can be asked, split once. `chats` never touches what is held out."""

    seed: int
    identity: Identity
    trained: tuple[Fact, ...]
    held_out: tuple[Fact, ...]

    def chats(self, count: int) -> Iterator[list[Message]]:
        """`count` chats of one to three questions each; the first n are the same whatever `count` is."""
        chance = random.Random(self.seed)
        pools = {kind: [fact for fact in self.trained if fact.kind == kind] for kind in ("sum", "function")}
        for _ in range(count):
            chat: list[Message] = []
            while True:
                ask, answer = self.exchange(chance, pools, opening=not chat)
                chat += [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]
                if len(chat) == 2 * MOST_TURNS or chance.random() >= MORE_TURNS:
                    break
            if len(chat) < 2 * MOST_TURNS and chance.random() < 0.1:
                ask, answer = self.from_topic(chance, "closing")
                chat += [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]
            yield chat

    def exchange(self, chance: random.Random, pools: dict[str, list[Fact]], *, opening: bool) -> tuple[str, str]:
        kinds = [kind for kind in SHARES if opening or kind != "greeting"]
        kind = chance.choices(kinds, [SHARES[kind] for kind in kinds])[0]
        if kind in pools:
            fact = chance.choice(pools[kind])
            return chance.choice(fact.asks), fact.answer
        return self.from_topic(chance, kind)

    def from_topic(self, chance: random.Random, kind: str) -> tuple[str, str]:
        topics = self.identity.of_kind(kind)
        topic = chance.choices(topics, [topic.weight for topic in topics])[0]
        return chance.choice(topic.asks), chance.choice(topic.answers)


def smalltalk(seed: int = DEFAULT_SEED, identity: Identity | None = None, stdlib: Path | None = None) -> Smalltalk:
    """Gather the facts of this interpreter. The same Python, seed and identity give the same chats."""
    source = Path(sysconfig.get_paths()["stdlib"]) if stdlib is None else stdlib
    trained_sums, held_sums = hold_out(sums(), seed)
    trained_functions, held_functions = hold_out(functions(source), seed)
    who = Identity.load() if identity is None else identity
    return Smalltalk(seed, who, trained_sums + trained_functions, held_sums + held_functions)


def to_jsonl(chats: Iterable[list[Message]]) -> Iterator[str]:
    """One line per chat, `{"messages": […]}`: what `--dataset-name FILE.jsonl` reads."""
    for chat in chats:
        yield json.dumps({"messages": chat}, ensure_ascii=False) + "\n"
