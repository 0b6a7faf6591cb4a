"""What a training will take, from a sample of its text."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from picollm import _rustbpe
from picollm.corpus.source import Source
from picollm.tok.special import SMALLEST_VOCAB
from picollm.tok.train import SEGMENT_TOKENS, Pattern, training_options

SAMPLES = 4  # segments that are read, spread over the corpus
SLOT_BYTES = 32  # of a table of counts, at most three quarters full
COUNT_BYTES = 32  # of a distinct piece once it is counted


@dataclass(frozen=True)
class Forecast:
    """Bytes and time are right within a factor of about two, pieces and memory within three, rather too high: text that
    comes back later looks new in a sample."""

    sampled_segments: int
    sampled_bytes: int
    segments: int
    bytes: int  # of training text that will be read
    distinct_pieces: int
    read_seconds: float
    merge_seconds: float
    memory: int  # bytes, beside what the process holds already


@dataclass(frozen=True)
class Sample:
    """What counting some segments found, and took."""

    bytes: int
    chars: int
    distinct: int
    training_memory: int
    seconds: float


def forecast(
    source: Source,
    vocab_size: int,
    *,
    pattern: Pattern = "picollm",
    max_chars: int | None = None,
    workers: int = 1,
) -> Forecast | None:
    """Count a few segments of what lies here, and merge a little; None where no file of the corpus is here yet.

    Time goes with the bytes; distinct pieces go with a power of them, which one and several segments give.
    Raises what reading raises.
    """
    plan: dict[str, Any] = json.loads(source.plan_json(SEGMENT_TOKENS))
    all_segments = plan["segments"]
    in_place = [(source.root / file.path).is_file() for file in source.files]
    here = [segment for segment in all_segments if all(in_place[slice(*segment["files"])])]
    if not here:
        return None
    samples = min(len(here), max(SAMPLES, workers))
    picked = [here[(2 * i + 1) * len(here) // (2 * samples)] for i in range(samples)]

    def count(segments: Sequence[dict[str, Any]], vocab: int) -> Sample:
        part = {**plan, "segments": [{**segment, "index": i} for i, segment in enumerate(segments)]}
        options = training_options(vocab, pattern, "rustbpe", workers)
        began = time.monotonic()
        _, counted, _ = _rustbpe.train_source(str(source.root), json.dumps(part).encode(), source.val_ppm, options)
        seconds = time.monotonic() - began
        found = dict(counted)
        return Sample(found["bytes"], found["chars"], found["distinct_pieces"], found["training_memory"], seconds)

    one, some = count(picked[:1], SMALLEST_VOCAB), count(picked, SMALLEST_VOCAB)
    # Every piece but single bytes can become a token, so half of them is a vocabulary that the sample can give.
    little = SMALLEST_VOCAB + min(vocab_size - SMALLEST_VOCAB, max(0, some.distinct - 256) // 2)
    merging = max(0.0, count(picked, little).seconds - some.seconds)
    share = len(all_segments) / samples
    if max_chars is not None:
        share = min(share, max(1.0, max_chars / some.chars))
    growth = share ** power_of(one, some)
    distinct = int(some.distinct * growth)
    tables = workers * SLOT_BYTES * 2 ** math.ceil(math.log2(max(2, distinct) * 4 / 3))
    return Forecast(
        sampled_segments=samples,
        sampled_bytes=some.bytes,
        segments=min(len(all_segments), math.ceil(samples * share)),
        bytes=int(some.bytes * share),
        distinct_pieces=distinct,
        read_seconds=some.seconds * share,
        merge_seconds=merging * growth,
        memory=tables + int(some.training_memory * growth) + COUNT_BYTES * distinct,
    )


def power_of(one: Sample, some: Sample) -> float:
    """How distinct pieces grow with text: 1 where all is new, near 0 where nothing is."""
    if some.bytes <= one.bytes or one.distinct == 0:
        return 1.0
    return min(1.0, max(0.0, math.log(some.distinct / one.distinct) / math.log(some.bytes / one.bytes)))
