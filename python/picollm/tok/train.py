"""Documents → `Tokenizer`. Reading, counting and merging are Rust's."""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from picollm import _rustbpe
from picollm.corpus.source import Source
from picollm.corpus.supply import Wanted, progress_with
from picollm.errors import UsageError
from picollm.tok.special import BYTES, LARGEST_VOCAB, SMALLEST_VOCAB, SPECIALS
from picollm.tok.tokenizer import Tokenizer

Pattern = Literal["picollm", "cl100k", "gpt2"]
Ties = Literal["rustbpe", "huggingface"]
Progress = Callable[[Mapping[str, int]], None]

# What one thread reads at a time; the result does not depend on it unless `max_chars` cuts.
SEGMENT_TOKENS = 1_000_000
CHARS_PER_TOKEN = 4.5  # of English; decides how many files are fetched ahead, nothing else


def check_vocab_size(vocab_size: int) -> None:
    """Raises UsageError outside 265 … 65,536."""
    if vocab_size > LARGEST_VOCAB:
        raise UsageError(
            f"--vocab-size {vocab_size:,}: shards hold uint16, so ids end at {LARGEST_VOCAB - 1:,} and "
            f"{LARGEST_VOCAB:,} tokens are the most",
            hint=f"--vocab-size {LARGEST_VOCAB}",
        )
    if vocab_size < SMALLEST_VOCAB:
        raise UsageError(
            f"--vocab-size {vocab_size:,}: {BYTES} bytes and {len(SPECIALS)} specials already make {SMALLEST_VOCAB}",
            hint=f"--vocab-size {SMALLEST_VOCAB} or more",
        )


def request_of(
    source: Source, vocab_size: int, pattern: Pattern, ties: Ties, max_chars: int | None, max_ram: int | None
) -> dict[str, Any]:
    """All that decides the merges, as JSON values: equal requests give equal tokenizers."""
    return {
        "vocab_size": vocab_size,
        "pattern": pattern,
        "ties": ties,
        "max_chars": max_chars,
        "max_ram": max_ram,
        "corpus": source.plain(),
        "read": source.read.plain(),
        "val_ppm": source.val_ppm,
    }


def train_tokenizer(
    source: Source,
    vocab_size: int,
    *,
    pattern: Pattern = "picollm",
    ties: Ties = "rustbpe",
    max_chars: int | None = None,
    max_ram: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Tokenizer:
    """Learn merges from the training documents of `source`, whole segments in order until `max_chars` characters.
    Files that have to be fetched stay in the source's root.

    `progress` is called about five times a second with counters: `done` of `total` segments while `tokens` is 0,
    then `done` of `total` merges. Past `max_ram` bytes counts go to temporary files, and pieces too rare to fit in
    training are left out: the counters `spilled_runs` and `left_out_…` say so.
    The same source gives the same tokenizer whatever `workers` (None: all cores).
    Raises UsageError, CorpusTooSmallError, MissingError (no text at all) and what reading raises.
    """
    check_vocab_size(vocab_size)
    plan = source.plan_json(SEGMENT_TOKENS)
    options = training_options(vocab_size, pattern, ties, workers, max_chars, max_ram)
    supply = source.supply(
        source.segments(SEGMENT_TOKENS), source.root, Wanted(max_chars), per_token=CHARS_PER_TOKEN, keep=True
    )
    with supply or contextlib.nullcontext():
        core, counts, bad_files = _rustbpe.train_source(
            str(source.root), plan, source.val_ppm, options, supply, progress_with(supply, progress)
        )
    request = request_of(source, vocab_size, pattern, ties, max_chars, max_ram)
    return Tokenizer(core, {**request, "counts": facts_of(counts), "bad_files": bad_files})


def train_on_texts(
    texts: Sequence[str],
    vocab_size: int,
    *,
    pattern: Pattern = "picollm",
    ties: Ties = "rustbpe",
    workers: int | None = None,
    progress: Progress | None = None,
) -> Tokenizer:
    """The same from documents in memory, all of them."""
    check_vocab_size(vocab_size)
    options = training_options(vocab_size, pattern, ties, workers)
    core, counts, _ = _rustbpe.train_texts(texts, options, progress)
    return Tokenizer(core, {"ties": ties, "corpus": None, "counts": facts_of(counts)})


def facts_of(counts: Sequence[tuple[str, int]]) -> dict[str, int]:
    """The counters that a manifest keeps: all but an estimate."""
    return {name: count for name, count in counts if name != "training_memory"}


def training_options(
    vocab_size: int,
    pattern: str,
    ties: str,
    workers: int | None,
    max_chars: int | None = None,
    max_ram: int | None = None,
) -> bytes:
    """What `_rustbpe` wants to know, as JSON."""
    fields = {"vocab_size": vocab_size, "pattern": pattern, "ties": ties, "workers": workers}
    return json.dumps({**fields, "max_chars": max_chars, "max_ram": max_ram}).encode()
