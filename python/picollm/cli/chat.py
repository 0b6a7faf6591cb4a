"""`picollm chat`: the terminal side of talking. Answers on stdout, everything else on stderr."""

import io
import secrets
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from picollm.errors import UsageError
from picollm.layout import Layout

if TYPE_CHECKING:
    from picollm.chat.repl import Talk

UNSAID_SEEDS = 2**31  # a drawn seed stays short enough to type again


@click.command("chat")
@click.argument("model", required=False)
@click.option("-p", "--prompt", help="Answer this once and leave.")
@click.option("--compare", help="Two models, such as base,sft: each prompt to both, the answers side by side.")
@click.option("-t", "--temperature", type=float, default=0.7, show_default=True, help="0 takes the likeliest token.")
@click.option("--top-k", type=int, default=50, show_default=True, help="Only the k likeliest tokens; 0 for all.")
@click.option("--top-p", type=float, default=1.0, show_default=True, help="Only the likeliest that sum to this.")
@click.option("--min-p", type=float, default=0.0, show_default=True, help="Only what is this close to the likeliest.")
@click.option("--seed", type=int, help="Same seed, same text. Unsaid: drawn, and printed.")
@click.option("--max-tokens", type=int, default=256, show_default=True, help="Longest answer, in tokens.")
@click.option("--system", help="Put before the first question.")
@click.option("--raw", is_flag=True, help="Keep control and escape characters of the output. Your terminal obeys them.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--runs-dir", type=click.Path(path_type=Path, file_okay=False), help="Where MODEL is looked for.")
def command(
    model: str | None,
    prompt: str | None,
    compare: str | None,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    seed: int | None,
    max_tokens: int,
    system: str | None,
    raw: bool,
    device: str,
    runs_dir: Path | None,
) -> None:
    """Talk to MODEL: a run's name or a folder; unsaid, the run that finished last. A base model continues your text."""
    from picollm.chat.repl import answer, converse, open_talk, printable
    from picollm.cli.models import find_model
    from picollm.infer.sample import Sampling

    seed = secrets.randbelow(UNSAID_SEEDS) if seed is None else seed
    how = Sampling(temperature, top_k if top_k > 0 else None, top_p, min_p, seed)
    runs = runs_dir or Layout.from_env().runs
    clean: Callable[[str], str] = str if raw else printable
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")

    def write(piece: str) -> None:
        click.echo(clean(piece), nl=False)

    def note(text: str) -> None:
        click.echo(printable(text), err=True)

    def opened(said: str | None) -> "Talk":
        path = find_model(said, runs)
        talk, about = open_talk(path, how, max_tokens=max_tokens, system=system, device=device)
        note(f"{path} · {about} · seed {seed}" + ("" if said else " · the run that finished last"))
        return talk

    if compare is not None:
        side_by_side([name.strip() for name in compare.split(",")], model, prompt, opened, write)
        return
    talk = opened(model)
    if prompt is None:
        converse(talk, lambda: input("you> " if sys.stdin.isatty() else ""), write, note)
        return
    if not talk.chats:
        note("a base model: it continues your text and does not answer")
    answer(talk, prompt, write, note)


def side_by_side(
    names: list[str],
    model: str | None,
    prompt: str | None,
    opened: "Callable[[str | None], Talk]",
    write: Callable[[str], None],
) -> None:
    """`--compare`: the prompt of -p, else each line of the input."""
    from picollm.chat.compare import compare

    if len(names) != 2 or not all(names) or model is not None:
        raise UsageError("--compare takes two models and no other", hint="picollm chat --compare base,sft")
    typed = (line.strip() for line in sys.stdin)
    prompts = iter([prompt]) if prompt is not None else (line for line in typed if line)
    one, other = names
    compare((opened(one), opened(other)), (one, other), prompts, write, shutil.get_terminal_size((100, 24)).columns)
