"""A disk that is full, and then is not: an error with its exit code, nothing half, and the same bytes in the end."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.campaigns.crash import GIVE_UP_SECONDS, check_what_is_there, command, environment, finish, tree, write_source

# In a mount namespace of its own: a small tmpfs, a build into it, what it left told by its exit code, then room, again.
SCRIPT = """
mount -t tmpfs -o size={size}k none "$1" || exit 99
shift
"$@" 2> said; first=$?
ls small/.picollm/partial | wc -l > left
cp -a small/. before/
mount -o remount,size=64m small
"$@" 2>> said; second=$?
cp -a small/. after/
echo "$first $second" > codes
"""


def why_not() -> str | None:
    """Why no private mount can be made here, or None."""
    if shutil.which("unshare") is None:
        return "unshare is not installed"
    tried = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", "mount -t tmpfs none /mnt"], capture_output=True, check=False
    )
    return None if tried.returncode == 0 else f"no private mount here: {tried.stderr.decode().strip()[:200]}"


@pytest.fixture(scope="module")
def home(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("disk")
    (folder / "tokenizers").mkdir()
    shutil.copytree(tokenizer, folder / "tokenizers" / "tiny")
    write_source(folder / "source")
    finish(folder, "whole")
    return folder


@pytest.mark.slow
@pytest.mark.row("S4")
@pytest.mark.parametrize("share", [0.05, 0.35, 0.65, 0.95])
def test_a_full_file_system_is_told_and_with_room_the_build_goes_on(share: float, home: Path, tmp_path: Path) -> None:
    why = why_not()
    if why is not None:
        pytest.skip(why)
    for name in ("small", "before", "after"):
        (tmp_path / name).mkdir()
    for name in ("tokenizers", "source"):
        shutil.copytree(home / name, tmp_path / name)
    wanted = tree(home / "whole")
    size = int(share * sum((home / "whole" / name).stat().st_size for name in wanted) / 1024)
    (tmp_path / "steps.sh").write_text(SCRIPT.format(size=max(size, 64)))
    build = command("small", "--workers", "2")
    assert build[0] == sys.executable
    ran = subprocess.run(
        ["unshare", "-Urm", "sh", "steps.sh", "small", *build],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=GIVE_UP_SECONDS,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "codes").read_text() == "3 0\n", (tmp_path / "said").read_text()
    assert "no space left" in (tmp_path / "said").read_text() or "are free" in (tmp_path / "said").read_text()
    assert (tmp_path / "left").read_text().strip() == "0"
    check_what_is_there(tmp_path / "before")
    assert not (tmp_path / "before" / "manifest.json").exists()
    assert tree(tmp_path / "after") == wanted
