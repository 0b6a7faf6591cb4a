"""Kill a sharding process at random times, many times: `just crash 1000`. The end must equal an unbroken run.

After each kill everything committed is read with the plain twin. When a set is finished it is compared, most of it is
removed, and the kills go on. Prints JSON.
"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.reference import shard_reader

from picollm.tok.train import train_on_texts

GIVE_UP_SECONDS = 120.0
FILES, DOCUMENTS = 8, 1_500  # about 40 segments
WORKERS = 4


def tree(folder: Path) -> dict[str, str]:
    """sha256 of everything but the workshop."""
    files = [path for path in folder.rglob("*") if path.is_file() and ".picollm" not in path.parts]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


def in_the_making(folder: Path) -> list[Path]:
    return list((folder / ".picollm" / "partial").iterdir())


def write_source(folder: Path) -> None:
    """A few thousand little documents in jsonl files."""
    folder.mkdir()
    for number in range(FILES):
        texts = (f"document {place} " * (1 + place % 40) for place in range(number, FILES * DOCUMENTS, FILES))
        (folder / f"{number}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def command(out: str, *options: str) -> list[str]:
    """Shard `source` of the current folder into `out`."""
    shard = [sys.executable, "-m", "picollm.cli.main", "shard", "source", "--out", out, "--shard-tokens", "2K"]
    return [*shard, *options]


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "PICOLLM_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}


def finish(home: Path, out: str, *options: str) -> None:
    """Run to the end. Raises CalledProcessError."""
    subprocess.run(
        command(out, *options),
        cwd=home,
        env=environment(home),
        check=True,
        timeout=GIVE_UP_SECONDS,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def check_what_is_there(out: Path) -> int:
    """Assert that every committed segment is whole and a manifest, if there is one, true. Returns segments."""
    records = list(out.glob("segment_*.json"))
    for path in records:
        for file in json.loads(path.read_bytes())["files"]:
            assert len(shard_reader.read(out / f"{file['name']}.bin").tokens) == file["n_tokens"]
    if (out / "manifest.json").exists():
        shard_reader.read_set(out)
    return len(records)


def crash(home: Path, kills: int, seed: int) -> dict[str, object]:
    """Kill `kills` builds of `home/source` (with a tokenizer in `home/tokenizers`), finish the last, compare."""
    chance = random.Random(seed)
    begun = time.monotonic()
    finish(home, "unbroken")
    whole = time.monotonic() - begun
    wanted = tree(home / "unbroken")
    out = home / "killed"
    killed, finished, differing, partly = 0, 0, 0, 0
    while killed < kills:
        process = subprocess.Popen(
            command("killed", "--workers", str(WORKERS)),
            cwd=home,
            env=environment(home),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(chance.uniform(0.2, 1.1) * whole)
            finished += 1
            differing += tree(out) != wanted
            for path in [out / "manifest.json", *out.glob("segment_*.json")]:
                path.unlink()  # all over again, over files that are there
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += 1
            partly += 0 < check_what_is_there(out) < len(list((home / "unbroken").glob("segment_*.json")))
    finish(home, "killed")
    differing += tree(out) != wanted
    return {
        "seed": seed,
        "kills": killed,
        "killed_with_some_segments": partly,
        "finished_between": finished,
        "differences": differing,
        "left_in_the_making": len(in_the_making(out)),
        "seconds": round(time.monotonic() - begun),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--replay", type=int, default=None, metavar="SEED")
    said = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if said.replay is None else said.replay
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        train_on_texts(["document 0 1 2 3 4 5 6 7 8 9 " * 10], 270).save(home / "tokenizers" / "tiny")
        write_source(home / "source")
        result = crash(home, said.kills, seed)
    print(json.dumps(result))
    raise SystemExit(1 if result["differences"] or result["left_in_the_making"] else 0)


if __name__ == "__main__":
    main()
