"""Peak memory of `picollm shard` against its promise: `just memory`. Prints JSON.

150 MiB and 48 MiB a worker, and four times the length of a document past 10 MB.
Made-up text as ordinary parquet, as parquet of one row group, and as one huge document, in parquet and
as jsonl. What counts is the largest resident set of the process, file pages that it maps included.
"""

import argparse
import contextlib
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tests.campaigns.crash import environment

from picollm.shards.build import RAM_BASE, RAM_PER_WORKER
from picollm.tok.train import train_on_texts

MB = 10**6


def prose(size: int, seed: int) -> str:
    """About `size` letters of made-up words, no two stretches alike."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("etaoinshrdlucmfw", k=rng.randrange(2, 9))) for _ in range(20_000)]
    return " ".join(rng.choices(words, k=size // 6))


def write_rows(path: Path, texts: list[str], row_group: int) -> None:
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"text": texts}), path, row_group_size=row_group, compression="snappy")


def write_line(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"text": text}) + "\n")


def peak(home: Path, source: str, workers: int) -> int:
    """Bytes resident at most while `home/source` becomes a set."""
    command = [sys.executable, "-m", "picollm.cli.main", "shard", source, "--workers", str(workers)]
    process = subprocess.Popen(
        [*command, "--out", f"{source}-{workers}", "--shard-tokens", "4M"],
        cwd=home,
        env=environment(home),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    most = 0
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()  # wait4 would tell of the parent before the exec, too
        most = max([most, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))])
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.01)
    assert process.returncode == 0, f"{source}: exit {process.returncode}"
    return most * 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=400, help="of text in the ordinary corpora")
    parser.add_argument("--document", type=int, default=100, help="megabytes of the huge document")
    said = parser.parse_args()
    text = prose(10 * MB, 0)
    texts = [text[start % (9 * MB) :][:4_000] for start in range(0, said.megabytes * MB, 4_000)]
    huge = "\n".join([text] * (said.document // 10))
    corpora: dict[str, Callable[[Path], None]] = {
        "ordinary": lambda folder: write_rows(folder / "x.parquet", texts, 1_000),
        "one-row-group": lambda folder: write_rows(folder / "x.parquet", texts, len(texts)),
        "huge-parquet": lambda folder: write_rows(folder / "x.parquet", [huge], 1),
        "huge-jsonl": lambda folder: write_line(folder / "x.jsonl", huge),
    }
    found = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        train_on_texts([text[: 2 * MB]], 8_192).save(home / "tokenizers" / "tiny")
        for name, write in corpora.items():
            write(home / name)
            for workers in (1, 2) if name == "ordinary" else (1,):
                used, promised = peak(home, name, workers), RAM_BASE + workers * RAM_PER_WORKER
                promised += 4 * said.document * MB if name.startswith("huge") else 0
                found.append({"corpus": name, "workers": workers, "peak_mb": used // MB, "promised_mb": promised // MB})
                print(json.dumps(found[-1]), file=sys.stderr)
    print(json.dumps({"megabytes": said.megabytes, "document_megabytes": said.document, "runs": found}))
    raise SystemExit(any(run["peak_mb"] > run["promised_mb"] for run in found))


if __name__ == "__main__":
    main()
