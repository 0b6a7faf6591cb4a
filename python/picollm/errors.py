"""Every failure a user can meet: what happened, the next step, and the exit code it ends in.

Exit codes (decision 38): 1 run-time failure, 2 usage, 3 a check failed, 4 something is missing,
5 out of memory, 75 saved and please requeue, 130 and 143 interrupted and saved.
"""

from collections.abc import Mapping
from typing import Any


class PicoError(Exception):
    """A failure with a message for people. `hint` is the command or change that repairs it."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(PicoError):
    """The request contradicts itself or asks for what cannot be (exit 2)."""

    exit_code = 2


class CheckError(PicoError):
    """A check failed: something exists and is not what it should be (exit 3)."""

    exit_code = 3


class MissingError(PicoError):
    """Something needed is not there: tokenizer, shards, tokens, network, text (exit 4)."""

    exit_code = 4


class OutOfMemoryError(PicoError):
    """The plan, or a step, does not fit in memory (exit 5).

    `smaller`: values of knobs with which the same run may go on at half the rows; empty where there are none.
    """

    exit_code = 5
    smaller: Mapping[str, Any] = {}


class StoppedError(PicoError):
    """A signal ended the run after a save (exit 130, 143 or 75)."""

    def __init__(self, message: str, *, exit_code: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


class BusyError(PicoError):
    """Another process is writing here."""


# Sources and shards
class SourceError(CheckError):
    """A source file is truncated, damaged or not UTF-8."""


class TextColumnError(UsageError):
    """No column of this name, or it holds no text."""


class SourceChangedError(CheckError):
    """A source file differs from what was planned."""


class DownloadError(PicoError):
    """A file could not be fetched whole."""


class DiskFullError(CheckError):
    """The disk cannot hold the result."""


class ShardFormatError(CheckError):
    """A shard, sidecar, manifest or tokenizer file breaks its format."""


class ShardCorruptError(CheckError):
    """A file of ours has the right form and the wrong content."""


class DatasetIncompleteError(MissingError):
    """Segments are missing."""


class FingerprintMismatch(CheckError):
    """Two things that must be the same data set are not."""


class TokenizerMismatch(CheckError):
    """Two things that must share a tokenizer do not."""


class CorpusTooSmallError(CheckError):
    """The corpus cannot give the vocabulary."""


# Loader and training
class LoaderStateError(CheckError):
    """A loader state belongs to another data set, order or version."""


class ForkedProcessError(PicoError):
    """A loader was used in a forked child; open a new one there."""


class EngineError(PicoError):
    """Some segments failed in a distributed engine."""


class CheckpointError(CheckError):
    """A checkpoint is damaged, incomplete or belongs to another run."""


class RankLostError(PicoError):
    """Another rank has died, or does not answer."""


class PlanMismatch(UsageError):
    """A run of this name exists with another plan."""


class DivergedError(PicoError):
    """The loss stopped being a number."""
