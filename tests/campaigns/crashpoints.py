"""Stop a sharding process before each call of the commit protocol, and make each call fail: `just crashpoints`.

The process is the crate's example `shard_folder`, one thread, under `strace`. After each stop everything with a final
name must be whole, and the rerun must end in the bytes of an unbroken run. The enumeration goes on until the call is
reached no more, so every point is visited, none by luck. Needs strace 6.1 and cargo; prints JSON.
"""

import argparse
import contextlib
import hashlib
import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.campaigns.crash import in_the_making, tree
from tests.reference import shard_reader

REPOSITORY = Path(__file__).resolve().parents[2]
# The protocol's own calls, each with the names it has on the machines we know.
CALLS = {
    "openat": "openat",
    "write": "write",
    "fsync": "fsync,fdatasync",
    "rename": "?rename,renameat,renameat2",
    "unlink": "?unlink,unlinkat",
}
FAULTS = {
    "openat": ("ENOSPC", "EIO"),
    "write": ("ENOSPC", "EIO", "EINTR"),
    "fsync": ("ENOSPC", "EIO"),
    "rename": ("ENOSPC", "EIO"),
    "unlink": ("EIO",),
}
BROKEN = ("direct", "early-rename", "trusting", "manifest-first")
KILLED = 137
RUST_PANIC = 101
GIVE_UP_SECONDS = 60.0
MOST_POINTS = 500  # per call; an enumeration that gets there has run away


class Violation(AssertionError):
    """The protocol broke a promise at the named point."""


def why_not() -> str | None:
    """What is missing for this campaign, or None."""
    for program in ("strace", "cargo"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    tried = subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"], capture_output=True, check=False)
    return None if tried.returncode == 0 else f"strace may not trace here: {tried.stderr.decode().strip()[:200]}"


def build_writer() -> Path:
    """The example as cargo builds it. Raises CalledProcessError."""
    command = ["cargo", "build", "--locked", "--quiet", "--example", "shard_folder", "--message-format=json"]
    said = subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE).stdout
    (path,) = [found for line in said.splitlines() if (found := json.loads(line).get("executable"))]
    return Path(path)


def write_source(folder: Path) -> Path:
    """Two files, so two segments, the first of two parts; both with validation documents."""
    folder.mkdir(parents=True)
    for number, documents in enumerate((120, 60)):
        texts = (f"document {place} " * (1 + place % 7) for place in range(1000 * number, 1000 * number + documents))
        (folder / f"{number}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


class Campaign:
    """One writer, one source, and what an unbroken run makes of it."""

    def __init__(self, writer: Path, root: Path) -> None:
        self.writer = writer
        self.source = write_source(root / "source")
        self.out = root / "out"
        self.seed = root / "seed"
        self.points = 0
        gold = root / "gold"
        assert self.run(gold) == 0
        self.wanted = tree(gold)
        self.check(gold)

    def run(self, out: Path, *inject: str, broken: str | None = None) -> int:
        """The writer's exit code; 137 where it was killed."""
        under = ["strace", "-qq", "-o", "/dev/null", *inject] if inject else []
        command = [*under, str(self.writer), str(self.source), str(out), *([broken] if broken else [])]
        code = subprocess.run(command, capture_output=True, check=False, timeout=GIVE_UP_SECONDS).returncode
        return KILLED if code == -9 else code

    def fresh(self) -> None:
        """Put the working folder back to where this pass starts: empty, or what an earlier kill left."""
        shutil.rmtree(self.out, ignore_errors=True)
        if self.seed.exists():
            shutil.copytree(self.seed, self.out)

    def check(self, out: Path) -> None:
        """Raise Violation unless everything with a final name is whole and says the truth."""
        try:
            for path in out.glob("*.bin"):
                shard_reader.read(path)
            for path in out.glob("segment_*.json"):
                for file in json.loads(path.read_bytes())["files"]:
                    assert len(shard_reader.read(out / f"{file['name']}.bin").tokens) == file["n_tokens"]
            if (out / "manifest.json").exists():
                records = json.loads((out / "manifest.json").read_bytes())["records"]
                for index, wanted in enumerate(records):
                    found = (out / f"segment_{index:06}.json").read_bytes()
                    assert shard_reader.blake3(found).hexdigest() == wanted
        except (AssertionError, OSError, ValueError, KeyError) as error:
            raise Violation(f"torn: {type(error).__name__} {error}") from error

    def rerun(self, broken: str | None = None) -> None:
        """Raise Violation unless the rerun ends in the bytes of an unbroken run, and leaves nothing in the making."""
        if self.run(self.out, broken=broken) != 0:
            raise Violation("the rerun failed")
        if tree(self.out) != self.wanted:
            raise Violation("the rerun ends in other bytes")
        if in_the_making(self.out):
            raise Violation(f"left in the making: {in_the_making(self.out)}")

    def enumerate(self, call: str, how: str, broken: str | None = None) -> Iterator[tuple[int, int]]:
        """(n, exit code) of a run in which `how` befalls the n-th call, n = 1, 2, … until it is reached no more."""
        for number in range(1, MOST_POINTS):
            self.fresh()
            names = CALLS[call]
            code = self.run(
                self.out, "-e", f"trace={names}", "-e", f"inject={names}:{how}:when={number}", broken=broken
            )
            if code == 0 and how == "signal=SIGKILL":
                return
            yield number, code
        raise Violation(f"{call}: more than {MOST_POINTS} points")

    def kills(self, broken: str | None = None, stride: int = 1) -> int:
        """SIGKILL before every call (every `stride`-th point is looked at). Returns how many; raises Violation."""
        points = 0
        for call in CALLS:
            for number, code in self.enumerate(call, "signal=SIGKILL", broken):
                if code != KILLED:
                    raise Violation(f"{call} {number}: exit {code}")
                if number % stride == 0:
                    self.verdict(f"kill before {call} {number}", broken)
                    points += 1
        return points

    @contextlib.contextmanager
    def beginning_after(self, call: str, number: int) -> Iterator[None]:
        """Let every run start from what a kill before the n-th such call left."""
        names = CALLS[call]
        self.run(self.seed, "-e", f"trace={names}", "-e", f"inject={names}:signal=SIGKILL:when={number}")
        try:
            yield
        finally:
            shutil.rmtree(self.seed)

    def faults(self, stride: int = 1) -> dict[str, int]:
        """Every error of FAULTS at every call (at every `stride`-th). Returns points per error."""
        met: dict[str, int] = {}
        for call, errors in FAULTS.items():
            reached = sum(1 for _ in self.reached(call))
            for error in errors:
                for number in range(1, reached + 1, stride):
                    for when in (f"{number}", f"{number}+") if error == "ENOSPC" else (f"{number}",):
                        self.fault(call, error, when)
                        met[error] = met.get(error, 0) + 1
        return met

    def fault(self, call: str, error: str, when: str) -> None:
        """One run in which the named calls fail. Raises Violation."""
        self.fresh()
        names, where = CALLS[call], f"{error} at {call} {when}"
        code = self.run(self.out, "-e", f"trace={names}", "-e", f"inject={names}:error={error}:when={when}")
        if code == 0 and tree(self.out) != self.wanted:
            raise Violation(f"{where}: exit 0 and other bytes")
        if error == "EINTR" and code != 0:
            raise Violation(f"{where}: an interrupted call is not a failure")
        if code < 0 or code == RUST_PANIC:
            raise Violation(f"{where}: exit {code}")
        self.verdict(where)

    def reached(self, call: str) -> list[str]:
        """The lines of strace for one call in an unbroken run from where this pass starts."""
        self.fresh()
        log = self.out.parent / "log"
        names = CALLS[call]
        command = ["strace", "-qq", "-o", str(log), "-e", f"trace={names}", str(self.writer), str(self.source)]
        subprocess.run([*command, str(self.out)], check=True, capture_output=True, timeout=GIVE_UP_SECONDS)
        return log.read_text().splitlines()

    def short_writes(self) -> int:
        """A system that claims to have written and has not: what comes of it is refused or made again."""
        points = len(self.reached("write"))
        for number in range(1, points + 1):
            self.fresh()
            self.run(self.out, "-e", "trace=write", "-e", f"inject=write:retval=1:when={number}")
            try:
                self.check(self.out)
            except Violation:
                continue  # noticed by the reader
            if tree(self.out) != self.wanted:
                self.rerun()
        return points

    def verdict(self, where: str, broken: str | None = None) -> None:
        try:
            self.check(self.out)
            self.rerun(broken)
        except Violation as violation:
            raise Violation(f"{where}: {violation}") from violation
        self.points += 1


# What strace -y writes: a call, the file behind a descriptor, the paths of a rename.
CALL = re.compile(r"(?P<name>\w+)\((?:(?P<fd>\d+)<(?P<path>[^>]*)>)?(?P<rest>.*)\) += (?P<result>-?\d+)")
QUOTED = re.compile(r'"([^"]*)"')


def order_faults(log: str, root: Path) -> list[str]:
    """Every place where power lost at the wrong moment could leave a final name without its content.

    Per file: writes, then fsync, then the rename; and before a commit record or a manifest gets its name the folder is
    synced after the last rename of what it speaks of, as it is at the end.
    """
    faults, dirty, unsynced = [], set(), []
    for line in log.splitlines():
        call = CALL.search(line)
        if call is None or int(call["result"]) < 0:
            continue
        name, path = call["name"], call["path"]
        if name == "write":
            dirty.add(path)
        elif name in ("fsync", "fdatasync"):
            dirty.discard(path)
            if path == str(root):
                unsynced = []
        elif name.startswith("rename"):
            old, new = QUOTED.findall(call["rest"])[:2] if path is None else QUOTED.findall(line)[:2]
            if old in dirty:
                faults.append(f"{Path(new).name}: renamed before it was synced")
            if new.endswith(".json") and unsynced:
                faults.append(f"{Path(new).name}: named before {', '.join(unsynced)} were durable")
            unsynced.append(Path(new).name)
    return faults + [f"{name}: its name was never synced" for name in unsynced]


def good_log(campaign: Campaign) -> str:
    """The calls of one unbroken run into an empty folder."""
    shutil.rmtree(campaign.out, ignore_errors=True)
    log = campaign.out.parent / "log"
    names = ",".join(CALLS.values())
    command = ["strace", "-qq", "-f", "-y", "-s", "4096", "-o", str(log), "-e", f"trace={names}", str(campaign.writer)]
    subprocess.run(
        [*command, str(campaign.source), str(campaign.out)], check=True, capture_output=True, timeout=GIVE_UP_SECONDS
    )
    return log.read_text()


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    reason = why_not()
    if reason is not None:
        raise SystemExit(reason)
    begun = time.monotonic()
    writer = build_writer()
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(writer, Path(folder))
        found: dict[str, object] = {
            "writer_sha256": hashlib.sha256(writer.read_bytes()).hexdigest(),
            "files": len(campaign.wanted),
            "kill_points": campaign.kills(),
            "fault_points": campaign.faults(),
            "short_write_points": campaign.short_writes(),
            "order_faults": order_faults(good_log(campaign), campaign.out),
        }
        second = {}
        for call, number in (("rename", 4), ("write", 5), ("fsync", 8), ("openat", 30)):
            with campaign.beginning_after(call, number):
                second[f"after a kill before {call} {number}"] = campaign.kills()
        found["kill_points_in_recovery"] = second
        noticed = {}
        for broken in BROKEN:
            try:
                campaign.kills(broken)
            except Violation as violation:
                noticed[broken] = str(violation)
        found["broken_writers_noticed"] = noticed
    found["seconds"] = round(time.monotonic() - begun)
    print(json.dumps(found, indent=1))
    raise SystemExit(1 if found["order_faults"] or len(noticed) < len(BROKEN) else 0)


if __name__ == "__main__":
    main()
