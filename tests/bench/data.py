"""The data path beside its peers, in one run: parquet → uint16 on disk, and tokens on disk → batches.

    just bench data [--corpus FILE] [--pythons P:Q] [--runs N] [--only shard|load] [--json FILE]

Every run is a fresh process on one core; contestants take turns, so that a drift of the machine hits all alike: all of
them `--slow-runs` times, then the fast ones the rest of `--runs` times. Under 8 minutes on a quiet machine. A peer is
run by the first of `--pythons` that can import it, and left out by name where none can. To have all of them:

    python -m venv a && a/bin/pip install gigatoken==0.10.0 awkward tiktoken datasets 'datatrove[io]==0.10.0' tokenizers
    python -m venv b && b/bin/pip install mosaicml-streaming==0.13.0 litdata==0.2.76      # its hub is older than a's
    just bench data --pythons a/bin/python:b/bin/python
"""

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("PICOLLM_SHARED", ROOT.parent / "shared"))
VOCAB = 65_536
PATTERN = "cl100k"  # the split that every peer knows
NEEDS = {
    "gigatoken": "gigatoken, awkward",
    "datasets+tiktoken": "datasets, tiktoken",
    "datatrove": "datatrove.pipeline.tokens, tokenizers",
    "mosaicml-streaming": "streaming",
    "litdata": "litdata",
    "nanochat's algorithm": "torch",
}
SHARDERS = ["picollm", "gigatoken", "datasets+tiktoken", "datatrove"]
LOADERS = ["picollm, u16 to NumPy", "picollm, i32+i64 to NumPy", "picollm, Stream to torch", "nanochat's algorithm",
           "mosaicml-streaming", "litdata"]  # fmt: skip
SLOW = 10  # seconds
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description="picollm's data path beside its peers")
    parser.add_argument("--corpus", type=Path, default=SHARED / "data/bench_corpus/english_100.parquet")
    parser.add_argument("--pythons", default=sys.executable, help="interpreters that have the peers, with : between")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--slow-runs", type=int, default=2, help=f"of what takes over {SLOW} s")
    parser.add_argument("--seconds", type=float, default=2, help="of draining a loader")
    parser.add_argument("--only", choices=["shard", "load"])
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "picollm-bench")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    found = pythons([*SHARDERS, *LOADERS], args.pythons.split(":"))
    text = pq.read_table(args.corpus, columns=["text"])["text"]
    size = sum(len(document.as_buffer()) for document in text)
    about = machine() | {"corpus": args.corpus.name, "documents": len(text), "bytes": size}
    tokenizer = trained(args)
    rows: list[Row] = []
    began = time.monotonic()
    if args.only != "load":
        rows += sharding(args, [name for name in SHARDERS if name in found], found, tokenizer, about)
    if args.only != "shard":
        rows += loading(args, [name for name in LOADERS if name in found], found, tokenizer)
    about["seconds"] = round(time.monotonic() - began)
    print(f"\n{about['seconds']} s in all")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


def pythons(names: list[str], candidates: list[str]) -> dict[str, str]:
    """By contestant: an interpreter that can run it. Says who is left out."""
    found = {}
    for name in names:
        modules = NEEDS.get(name)
        tried = [sys.executable] if modules is None else [*candidates, sys.executable]
        python = next((python for python in tried if modules is None or imports(python, modules)), None)
        if python is None:
            print(f"{name}: left out, no interpreter of --pythons imports {modules}")
        else:
            found[name] = python
    return found


def imports(python: str, modules: str) -> bool:
    return subprocess.run([python, "-c", f"import {modules}"], capture_output=True).returncode == 0


def machine() -> Row:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "?")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    return {"cpu": model, "cores": os.cpu_count(), "kernel": platform.release(), "commit": commit.strip()}


def trained(args: argparse.Namespace) -> Path:
    """A tokenizer of the corpus for everybody, kept between runs."""
    folder: Path = args.cache / f"{args.corpus.stem}-{VOCAB}-{PATTERN}"
    if not (folder / "tokenizer.json").exists():
        picollm("tok", "train", args.corpus, "--vocab-size", VOCAB, "--pattern", PATTERN, "--out", folder)
    return folder


def picollm(*words: object) -> None:
    command = [sys.executable, "-m", "picollm.cli.main", *map(str, words)]
    subprocess.run(command, check=True, env=environment(), stdout=subprocess.DEVNULL)


def environment() -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "python"), os.environ.get("PYTHONPATH", "")]
    one = dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    quiet = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return os.environ | one | quiet | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def run(python: str, *words: str) -> Row:
    """A fresh process on one core: its answer, wall and CPU seconds (children too), peak resident MB of the largest."""
    core = min(os.sched_getaffinity(0))
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        began = time.perf_counter()
        child = subprocess.Popen(
            [python, "-m", *words], cwd=ROOT, env=environment(), stdout=out, stderr=err,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )  # fmt: skip
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - began
        out.seek(0)
        err.seek(0)
        lines = [line for line in out.read().split("\n") if line.startswith("\x1e")]
        if child.returncode or not lines:
            return {"failed": err.read().strip().split("\n")[-1] or f"exit {child.returncode}"}
    answer: Row = json.loads(lines[-1][1:]) or {}
    return {
        "process_wall": wall,
        "process_cpu": used.ru_utime + used.ru_stime,
        "peak_mb": used.ru_maxrss / 1024,
    } | answer


def sharding(
    args: argparse.Namespace, names: list[str], found: dict[str, str], tokenizer: Path, about: Row
) -> list[Row]:
    marker = VOCAB - 9  # <|bos|>, the first of the nine specials
    rows: list[Row] = []
    reference = None
    slow: set[str] = set()  # all of their runs count, the first of the others is a warm-up
    for number in range(args.runs + 1):
        for name in [name for name in [*names, "picollm-stages"] if name not in slow or number < args.slow_runs]:
            with tempfile.TemporaryDirectory(dir=args.cache) as out:
                job = {"corpus": str(args.corpus), "tokenizer": str(tokenizer), "out": out, "marker": marker}
                row = run(found.get(name, sys.executable), "tests.bench.shard_peers", name, json.dumps(job))
                if "failed" not in row:
                    row["tokens"], digest = counted(row.pop("parts"), marker)
                    reference = reference or digest
                    row["same"] = digest == reference
            if "failed" in row or row["process_wall"] > SLOW:
                slow.add(name)
            if number or name in slow:
                rows.append({"bench": "shard", "name": name, "run": number, **row})
    megabytes = about["bytes"] / 1e6
    print(f"\nparquet to uint16, one core: {args.corpus.name}, {megabytes:.1f} MB of text, {VOCAB:,} ids, "
          f"pattern {PATTERN}, median (range) of n runs")  # fmt: skip
    print(f"{'':20}{'n':>3}{'wall s':>24}{'CPU s':>24}{'MB/s':>8}{'M tok/s':>9}{'peak MB':>9}  ids")
    for name in names:
        good = [row for row in rows if row["name"] == name and "failed" not in row]
        if not good:
            print(f"{name:20}  failed: {next(row['failed'] for row in rows if row['name'] == name)}")
            continue
        cpu = statistics.median(row["process_cpu"] for row in good)
        print(f"{name:20}{len(good):3}{spread(good, 'process_wall'):>24}{spread(good, 'process_cpu'):>24}"
              f"{megabytes / cpu:8.1f}"
              f"{good[0]['tokens'] / cpu / 1e6:9.1f}{statistics.median(row['peak_mb'] for row in good):9.0f}  "
              f"{'same' if all(row['same'] for row in good) else 'differ'}")  # fmt: skip
    say_stages([row for row in rows if row["name"] == "picollm-stages" and "failed" not in row])
    return rows


def say_stages(rows: list[Row]) -> None:
    """Milliseconds of CPU for a MB of text, by stage; start-up of the interpreter apart."""
    if not rows:
        return
    each = [{stage: 1e9 * seconds / row["bytes"] for stage, seconds in row["stages"].items()} for row in rows]
    middle = {stage: statistics.median(stages[stage] for stages in each) for stage in each[0]}
    others = [stages["all"] - stages["encode"] for stages in each]
    print(f"picollm's CPU, ms per MB of text: {middle['all']:.2f} in all; encode {middle['encode']:.2f}, "
          f"write {middle['write']:.2f}, read and the rest {middle['all'] - middle['encode'] - middle['write']:.2f}; "
          f"not encoding {statistics.median(others):.2f} ({min(others):.2f} … {max(others):.2f}) = "
          f"{100 * statistics.median(others) / middle['all']:.1f} %")  # fmt: skip


def counted(parts: list[tuple[str, int]], marker: int) -> tuple[int, str]:
    """(ids, hash of them) of the files, markers left out."""
    digest, total = hashlib.sha256(), 0
    for path, header in parts:
        ids = np.fromfile(path, "<u2", offset=header)
        ids = ids[ids != marker]
        digest.update(ids.tobytes())
        total += len(ids)
    return total, digest.hexdigest()


def loading(args: argparse.Namespace, names: list[str], found: dict[str, str], tokenizer: Path) -> list[Row]:
    shards = args.cache / f"{args.corpus.stem}-shards"
    if not (shards / "manifest.json").exists():
        picollm("shard", args.corpus, "--tokenizer", tokenizer, "--out", shards)
    jobs = {}
    for name in names:
        folder = args.cache / f"{args.corpus.stem}-{name.partition(',')[0]}"
        jobs[name] = json.dumps({"shards": str(shards), "folder": str(folder), "seq_len": 2048, "batch_size": 16,
                                 "seconds": args.seconds})  # fmt: skip
        if name in ("mosaicml-streaming", "litdata") and not folder.exists():
            made = run(found[name], "tests.bench.load_peers", "prepare", name, jobs[name])
            assert "failed" not in made, (name, made)
    rows = []
    for number in range(1, args.runs + 1):
        for name in names:
            row = run(found[name], "tests.bench.load_peers", "drain", name, jobs[name])
            rows.append({"bench": "load", "name": name, "run": number, **row})
    print(f"\ntokens to batches of 16 rows of 2,048, one core, hot; median of {args.runs} (range)")
    print(f"{'':28}{'M tok per CPU s':>24}{'1 M tok/s cost':>16}{'first batch ms':>16}{'state B':>9}")
    for name in names:
        good = [row for row in rows if row["name"] == name and "failed" not in row]
        if not good:
            print(f"{name:28}  failed: {next(row['failed'] for row in rows if row['name'] == name)}")
            continue
        for row in good:
            row["rate"] = row["tokens"] / row["cpu"] / 1e6
        print(f"{name:28}{spread(good, 'rate', 1):>24}{100 / statistics.median(row['rate'] for row in good):14.2f} %"
              f"{1e3 * statistics.median(row['first'] for row in good):16.1f}{good[0]['state_bytes']:9}")  # fmt: skip
    return rows


def spread(rows: list[Row], field: str, digits: int = 2) -> str:
    values = sorted(row[field] for row in rows)
    return f"{statistics.median(values):.{digits}f} ({values[0]:.{digits}f} … {values[-1]:.{digits}f})"


if __name__ == "__main__":
    main()
