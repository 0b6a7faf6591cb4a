"""`picollm sft`: from a base model to one that answers."""

from dataclasses import replace
from pathlib import Path

import click

from picollm.cli.options import COUNT
from picollm.layout import Layout, cache_dir

CHATS = 6000  # of smalltalk, one pass: about 200,000 tokens


@click.command("sft")
@click.argument("model", required=False)
@click.option(
    "--dataset-name",
    "--dataset",
    default="smalltalk",
    show_default=True,
    help="smalltalk; a .jsonl or .parquet file, or a folder of them; a data set of the Hub.",
)
@click.option("--dataset-config", help="Which configuration of a data set of the Hub.")
@click.option("--dataset-split", help="Which of its splits.  [default: train]")
@click.option("--chats", type=COUNT, default=CHATS, show_default=True, help="How many chats smalltalk makes.")
@click.option("--identity", type=click.Path(path_type=Path, dir_okay=False), help="Who the bot is: a TOML file.")
@click.option("--name", help="Of the new run.  [default: MODEL-sft]")
@click.option("--num-epochs", type=int, help="Passes over the conversations.  [default: 1]")
@click.option("--num-iterations", "--max-steps", type=COUNT, help="Steps, instead of passes.")
@click.option("--total-batch-size", type=COUNT, help="Tokens per step.  [default: the base run's]")
@click.option("--device-batch-size", type=COUNT, help="Rows at once.  [default: the base run's]")
@click.option("--rate-scale", type=float, help="Times the base run's peak rates.  [default: 0.8; smalltalk 1.3]")
@click.option("--seed", type=int, help="Order of the rows, and the chats of smalltalk.  [default: the base run's]")
@click.option("--eval-every", type=COUNT, help="Steps between validations.")
@click.option("--save-every", help="100 (steps) or 15min.")
@click.option("--keep", type=int, help="Checkpoints to keep.")
@click.option("--log", help="Dashboards beside metrics.jsonl: tensorboard,wandb,trackio.")
@click.option("--device", help="cpu, cuda or mps.")
@click.option("--runs-dir", type=click.Path(path_type=Path, file_okay=False))
def command(
    model: str | None,
    dataset_name: str,
    dataset_config: str | None,
    dataset_split: str | None,
    chats: int,
    identity: Path | None,
    save_every: str | None,
    log: str | None,
    device: str | None,
    runs_dir: Path | None,
    **said: object,
) -> None:
    """Fine-tune MODEL (a run; unsaid: the one that finished last) on conversations. The answers are learned."""
    from picollm.cli.models import find_model
    from picollm.corpus.catalog import CATALOG
    from picollm.corpus.hub import Asked
    from picollm.corpus.source import HUB_ID
    from picollm.errors import UsageError
    from picollm.plan.request import Interval
    from picollm.plan.sft import SftRequest
    from picollm.train.published import hub_chats
    from picollm.train.sft import (
        SMALLTALK_RATE_SCALE,
        describe,
        file_chats,
        run_sft,
        score_smalltalk,
        smalltalk_chats,
    )

    def left_out(why: str) -> None:
        click.echo(f"left out: {why}", err=True)

    request = SftRequest(**said, save_every=Interval.parse(save_every) if save_every else None)  # type: ignore[arg-type]
    runs = runs_dir or Layout.from_env().runs
    base = find_model(model, runs)
    if dataset_name != "smalltalk":
        if identity is not None:
            raise UsageError("--identity belongs to --dataset-name smalltalk")
        path, from_hub = Path(dataset_name), HUB_ID.fullmatch(dataset_name) or dataset_name in CATALOG
        asked = Asked(dataset_name, dataset_config, dataset_split)
        found = hub_chats(asked, cache_dir()) if from_hub and not path.exists() else file_chats(path, left_out)
        click.echo(run_sft(base, found, request, runs, device=device, log=log))
        return
    talk, made = smalltalk_chats(chats, identity, request.seed)
    if request.rate_scale is None:
        request = replace(request, rate_scale=SMALLTALK_RATE_SCALE)
    run = run_sft(base, made, request, runs, device=device, log=log)
    click.echo(describe(score_smalltalk(run, talk)), err=True)
    click.echo(run)
