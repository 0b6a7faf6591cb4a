"""`picollm report`: one page about a run, from its files alone."""

from pathlib import Path

import click

from picollm.errors import MissingError
from picollm.layout import Layout


@click.command("report")
@click.argument("run", required=False)
@click.option("--runs-dir", type=click.Path(path_type=Path, file_okay=False), help="Where RUN is looked for.")
def command(run: str | None, runs_dir: Path | None) -> None:
    """Write RUN's report.md and loss.svg. RUN: a name or a folder; unsaid, the run that was logged last."""
    from picollm.report.page import write_report
    from picollm.report.run import Run

    read = Run.read(find_run(run, runs_dir or Layout.from_env().runs))
    path = write_report(read)
    click.echo(str(path))
    if read.best:
        click.echo(f"{read.name}: best {read.best[1]:.4f} bits per byte at step {read.best[0]:,}", err=True)


def find_run(said: str | None, runs: Path) -> Path:
    """The folder of the run that is meant. Raises MissingError with the runs that there are."""
    there = sorted(runs.glob("*/metrics.jsonl"), key=lambda path: (path.stat().st_mtime, path.parent.name))
    if said is None:
        if not there:
            raise MissingError(f"no run in {runs}", hint="picollm quickstart, or picollm train")
        return there[-1].parent
    for folder in (runs / said, Path(said)):
        if (folder / "metrics.jsonl").is_file():
            return folder
    names = ", ".join(sorted(path.parent.name for path in there)) or "none"
    raise MissingError(f"no run {said!r}; in {runs}: {names}", hint="picollm report NAME")
