"""The torchrun door: `torchrun -m picollm.train …` is `picollm train …` on every rank; rank 0 alone speaks."""

import os
import sys
import time

import click

from picollm.cli.main import cli, main
from picollm.errors import PicoError

RANK_0_SPEAKS = 10.0  # seconds at most: when rank 0 has failed with the same, torchrun ends this one


def quiet(arguments: list[str]) -> int:
    """Run as a rank that leaves errors to rank 0, which meets the same ones; the exit code. Bugs still show."""
    try:
        code = cli.main(args=arguments, prog_name="picollm", standalone_mode=False)
    except click.exceptions.Exit as done:
        code = done.exit_code
    except (click.ClickException, PicoError) as error:
        code = error.exit_code
    if isinstance(code, int) and code:
        time.sleep(RANK_0_SPEAKS)  # torchrun ends all ranks at once when one has failed
        return code
    return 0


if __name__ == "__main__":
    if os.environ.get("RANK", "0") == "0":
        main(["train", *sys.argv[1:]])
    sys.exit(quiet(["train", *sys.argv[1:]]))
