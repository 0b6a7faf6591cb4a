"""Segments over a Ray cluster: placement, retries and node loss are Ray's, the bytes are those of one machine.

A task is all that is missing of one source file, so that a file is fetched once; it writes into the set's folder, which
every node sees under one path, and returns the numbers of the segments it made. Ray is imported when it is asked for.
"""

import dataclasses
import importlib
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from picollm import _rustbpe
from picollm.corpus.supply import DEFAULT_STAGING, Staging
from picollm.errors import DownloadError, EngineError, MissingError
from picollm.runtime import durable
from picollm.shards.build import LOCK, WORK, Progress, committed
from picollm.shards.plan import ShardPlan
from picollm.shards.tasks import make, planned

AHEAD = 1.5  # tasks asked for, in cluster sizes: a little more than there is, so that a cluster that can grow does
RETRIES = 5  # of a task whose worker died, or which met one of RETRIED
RETRIED = (OSError, DownloadError)
WAIT_SECONDS = 1.0  # between two looks at progress


@dataclasses.dataclass(frozen=True)
class Share:
    """What a worker is told: paths and numbers."""

    out: str
    root: str | None
    segments: tuple[int, ...]
    threads: int
    staging: Staging


def shares(
    plan: ShardPlan, missing: set[int], out: Path, root: Path | None, threads: int, staging: Staging
) -> list[Share]:
    """The missing segments, those of one first file together, in the order of the plan."""
    groups: dict[int, list[int]] = {}
    for segment in plan.segments:
        if segment.index in missing:
            groups.setdefault(segment.files[0], []).append(segment.index)
    where = None if root is None else str(root)
    return [Share(str(out.absolute()), where, tuple(group), threads, staging) for group in groups.values()]


def run_share(share: Share) -> tuple[int, ...]:
    """In a worker: make the segments of a share that are still missing. Returns all of the share."""
    out = Path(share.out)
    _rustbpe.clean_partial(share.out)
    root = None if share.root is None else Path(share.root)
    make(planned(out), out, share.segments, root, share.threads, share.staging)
    return share.segments


def import_ray() -> Any:
    """The module, or MissingError with what installs it."""
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise MissingError("--engine ray: Ray is not installed", hint='pip install "picollm-train[ray]"') from None


def run_on_ray(
    out: Path,
    *,
    address: str | None = None,
    root: Path | None = None,
    threads: int = 8,
    staging: Staging = DEFAULT_STAGING,
    progress: Progress | None = None,
) -> int:
    """Make every missing segment of the plan in `out` on the cluster at `address` (None: one started here, now).

    `threads` per task, at most the CPUs of the smallest node. Returns how many were made. What fails does not stop the
    others: raises EngineError with the causes at the end, what is finished is kept. Raises MissingError, BusyError.
    """
    ray = import_ray()
    with durable.lock(out / WORK, LOCK):
        plan = planned(out)
        _rustbpe.clean_partial(str(out))
        segments = len(plan.body["segments"])
        missing = set(range(segments)) - committed(plan, out).keys()
        started = not ray.is_initialized()
        if started:
            ray.init(address=address, log_to_driver=False)
        try:
            made = 0
            threads = max(
                1, min([threads, *(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])])
            )
            for found in schedule(ray, shares(plan, missing, out, root, threads, staging), threads):
                made += len(found)
                if progress is not None:
                    progress(counters(segments, segments - len(missing) + made))
            return made
        finally:
            if started:
                ray.shutdown()


def schedule(ray: Any, todo: list[Share], threads: int) -> Iterator[tuple[int, ...]]:
    """Hand out shares, a little ahead of the cluster's size; yields what each made, or nothing now and then."""
    task = ray.remote(
        num_cpus=threads, max_retries=RETRIES, retry_exceptions=list(RETRIED), scheduling_strategy="SPREAD"
    )(run_share)
    queue, live, failed = deque(todo), dict[Any, Share](), dict[tuple[int, ...], Exception]()
    while queue or live:
        room = max(1, int(AHEAD * ray.cluster_resources().get("CPU", 1) / threads))
        while queue and len(live) < room:
            share = queue.popleft()
            live[task.remote(share)] = share
        done, _ = ray.wait(list(live), timeout=WAIT_SECONDS)
        for reference in done:
            share = live.pop(reference)
            try:
                made = ray.get(reference)
            except Exception as error:  # noqa: BLE001 -- whatever ended one share, the others go on
                failed[share.segments] = error
            else:
                yield made
        if not done:
            yield ()
    if failed:
        what = "; ".join(f"segments {first[0]} to {first[-1]}: {error}" for first, error in failed.items())
        raise EngineError(f"{len(failed)} of {len(todo)} tasks failed: {what}", hint="run the same command again")


def counters(total: int, done: int) -> Mapping[str, int]:
    """Progress in segments: what the workers read is known to them alone."""
    return {"done": done, "total": total, "bytes": 0, "documents": 0, "tokens": 0}
