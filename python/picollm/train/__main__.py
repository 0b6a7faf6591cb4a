"""The torchrun door: `torchrun -m picollm.train …` is `picollm train …` on every rank; rank 0 alone speaks."""

import os
import sys

import click

from picollm.cli.main import cli, main
from picollm.errors import PicoError


def quiet(arguments: list[str]) -> int:
    """Run as a rank that leaves errors to rank 0, which meets the same ones; the exit code. Bugs still show."""
    try:
        code = cli.main(args=arguments, prog_name="picollm", standalone_mode=False)
    except click.exceptions.Exit as done:
        code = done.exit_code
    except (click.ClickException, PicoError) as error:
        code = error.exit_code
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    if os.environ.get("RANK", "0") == "0":
        main(["train", *sys.argv[1:]])
    sys.exit(quiet(["train", *sys.argv[1:]]))
