"""The door: lazy command groups, and errors turned into one message and an exit code.

`picollm --help` imports neither torch nor datasets nor any command's code.
"""

import importlib
import os
import sys
import traceback

import click

from picollm import __version__
from picollm.cli.colour import wanted
from picollm.errors import PicoError

# command → (module of picollm.cli, help line). The order is the order of the path.
COMMANDS = {
    "quickstart": ("quickstart", "the whole path in a few minutes: text to conversation, offline"),
    "data": ("data", "what a data set is; its first documents, its chats as tokens"),
    "tok": ("tok", "train and use a tokenizer"),
    "shard": ("shard", "tokenize a source into shards; inspect and verify them"),
    "plan": ("plan", "what a training command means and costs, before it runs"),
    "explain": ("explain", "why a knob has its value, what a warning means"),
    "diff": ("diff", "what a change changes: six questions"),
    "train": ("train", "train a base model (also: torchrun -m picollm.train)"),
    "sft": ("sft", "fine-tune a base model on conversations"),
    "chat": ("chat", "talk to a model"),
    "serve": ("serve", "a page to talk, watch and plan; OpenAI's API"),
    "eval": ("eval", "bits per byte, CORE, ARC, MMLU, GSM8K of a model"),
    "runs": ("runs", "list, compare and watch runs"),
    "doctor": ("doctor", "what this machine can do, and whether the installation is whole"),
    "report": ("report", "one page about a run"),
}


class LazyGroup(click.Group):
    """Imports a command's module only when that command is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"picollm.cli.{COMMANDS[name][0]}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="picollm-train")
def cli() -> None:
    """Train small language models end to end: text in at one end, a conversation out at the other."""


def say_error(error: PicoError) -> None:
    """What happened, then the next step, on stderr."""
    click.echo(f"error: {error.message}", err=True)
    if error.hint:
        click.echo(f"       {error.hint}", err=True)


def main(args: list[str] | None = None) -> None:
    """Run one command and leave with its documented exit code."""
    debug = bool(os.environ.get("PICOLLM_DEBUG"))
    try:
        code = cli.main(args=args, prog_name="picollm", standalone_mode=False, color=wanted(os.environ))
    except click.exceptions.Exit as done:
        code = done.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left; do not complain at exit
        code = 1
    except PicoError as error:
        if debug:
            traceback.print_exc()
        say_error(error)
        code = error.exit_code
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
