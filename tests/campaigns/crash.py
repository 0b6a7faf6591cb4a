"""Kill a sharding process at random times, many times: `just crash 1000`. The end must equal an unbroken run.

After each kill everything committed is read with the plain twin. When a set is finished it is compared, most of it is
removed, and the kills go on; a tenth as often, a call of the protocol fails instead, in one of four threads. Every
other way to make the set must end in the same bytes, too. Prints JSON; with `--json FILE` the figures so far are kept
there, and the same command goes on from them.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.campaigns import ways
from tests.reference import shard_reader

from picollm.runtime import durable
from picollm.tok.train import train_on_texts

GIVE_UP_SECONDS = 120.0
FILES, DOCUMENTS = 8, 1_500  # about 40 segments
WORKERS = 4
FAULTS = [
    (names, error)
    for names in ("write", "fsync,fdatasync", "?rename,renameat,renameat2", "?unlink,unlinkat")
    for error in ("ENOSPC", "EIO")
]
CONFIGURATIONS = 30  # of language, time zone, hash seed, … (ways.configurations)
MOST_CALLS = 40  # of one kind that a thread makes, about


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


@dataclass
class Figures:
    """What happened so far. A try draws its moment from (seed, tries), so that a campaign that goes on is the same."""

    seed: int
    tries: int = 0
    kills: int = 0
    killed_with_some_segments: int = 0
    faults: int = 0
    faults_that_ended_it: int = 0
    finished_between: int = 0
    differences: int = 0
    left_in_the_making: int = 0
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        return not self.differences and not self.left_in_the_making


class Campaign:
    """Builds of `home/source`, with a tokenizer in `home/tokenizers`, into `home/killed`."""

    def __init__(self, home: Path, figures: Figures) -> None:
        self.home, self.figures, self.out = home, figures, home / "killed"
        begun = time.monotonic()
        finish(home, "unbroken")
        self.whole = time.monotonic() - begun  # seconds
        self.wanted = tree(home / "unbroken")
        self.segments = len(list((home / "unbroken").glob("segment_*.json")))

    def start(self, *under: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*under, *command("killed", "--workers", str(WORKERS))],
            cwd=self.home,
            env=environment(self.home) | {"PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def once(self, *, faulty: bool) -> None:
        """One build that is killed, or in which a call fails, unless it is over before."""
        figures = self.figures
        chance = random.Random(f"{figures.seed} {figures.tries}")
        figures.tries += 1
        if faulty:
            self.fail(chance)
            return
        process, begun = self.start(), time.monotonic()
        try:
            process.wait(chance.uniform(0.2, 1.1) * self.whole)
            self.whole = (3 * self.whole + time.monotonic() - begun) / 4  # the machine may be busier or quieter now
            self.again()
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            figures.kills += 1
            figures.killed_with_some_segments += 0 < check_what_is_there(self.out) < self.segments

    def fail(self, chance: random.Random) -> None:
        """A build in which the n-th call of each thread fails."""
        names, error = chance.choice(FAULTS)
        fault = f"inject={names}:error={error}:when={chance.randrange(1, MOST_CALLS)}"
        under = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", f"trace={names}", "-e", fault]
        code = self.start(*under).wait(GIVE_UP_SECONDS)
        assert code >= 0, f"{fault}: ended by signal {-code}"
        check_what_is_there(self.out)
        self.figures.faults += 1
        if code:
            self.figures.faults_that_ended_it += 1
        else:
            self.again()

    def again(self) -> None:
        """Compare a finished set and start all over, over files that are there."""
        self.figures.finished_between += 1
        self.figures.differences += tree(self.out) != self.wanted
        for path in [self.out / "manifest.json", *self.out.glob("segment_*.json")]:
            path.unlink()

    def end(self) -> None:
        """Finish what the last kill left, and compare."""
        finish(self.home, "killed")
        self.figures.differences += tree(self.out) != self.wanted
        self.figures.left_in_the_making += len(in_the_making(self.out))


def crash(home: Path, kills: int, figures: Figures, *, faults: bool, keep: Path | None = None) -> Figures:
    """Kill builds until there were `kills`, finish the last, compare. `faults`: a failing call for every ten kills.
    `keep`: where the figures are written after each."""
    campaign, before = Campaign(home, figures), figures.seconds
    begun = time.monotonic()
    while figures.kills < kills and figures.good:
        campaign.once(faulty=faults and figures.faults < figures.kills // 10)
        figures.seconds = round(before + time.monotonic() - begun, 1)
        if keep:
            durable.write(keep, json.dumps(asdict(figures)).encode())
    campaign.end()
    return figures


def prepare(home: Path) -> None:
    """A tokenizer and a source."""
    train_on_texts(["document 0 1 2 3 4 5 6 7 8 9 " * 10], 270).save(home / "tokenizers" / "tiny")
    write_source(home / "source")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--replay", type=int, default=None, metavar="SEED")
    parser.add_argument("--json", type=Path, help="keep the figures here, and go on from them")
    said = parser.parse_args()
    figures = Figures(random.SystemRandom().randrange(2**32) if said.replay is None else said.replay)
    if said.json and said.json.exists():
        kept = json.loads(said.json.read_bytes())
        figures = Figures(**{name: kept[name] for name in asdict(figures)})
    elif said.json:
        said.json.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        prepare(home)
        crash(home, said.kills, figures, faults=shutil.which("strace") is not None, keep=said.json)
        fingerprints = ways.fingerprints(home / "source", home / "tokenizers" / "tiny", home / "ways")
        others = ways.configurations(home, CONFIGURATIONS, figures.seed) - set(fingerprints.values())
    result = {**asdict(figures), "fingerprints": fingerprints, "configurations": CONFIGURATIONS, "others": len(others)}
    if said.json:
        durable.write(said.json, (json.dumps(result, indent=1) + "\n").encode())
    print(json.dumps(result, indent=1))
    raise SystemExit(0 if figures.good and len(set(fingerprints.values())) == 1 and not others else 1)


if __name__ == "__main__":
    main()
