"""`picollm serve`: the model behind OpenAI's API, and a page to talk to it, watch runs and plan the next one."""

import webbrowser
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from picollm.errors import MissingError, UsageError
from picollm.layout import Layout

if TYPE_CHECKING:
    from picollm.serve.app import Service

LOOPBACK = ("127.0.0.1", "::1", "localhost")
MOST_TOKEN = 1024
PLAN_WORDS = ("window-pattern", "gpu", "dtype", "preset")  # beside every knob that is a number


@click.command("serve")
@click.argument("model", required=False)
@click.option("--beside", help="Another model, to compare with in the page and by its name.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on. Others need a token.")
@click.option("--port", type=click.IntRange(0, 65535), default=8008, show_default=True, help="0: any that is free.")
@click.option("--token-file", type=click.Path(path_type=Path, dir_okay=False), help="Holds the bearer token.")
@click.option("--insecure-no-auth", is_flag=True, help="Listen beyond this machine without a token.")
@click.option("--open", "open_page", is_flag=True, help="Open the page in a browser.")
@click.option("--device", default="auto", show_default=True)
@click.option("--runs-dir", type=click.Path(path_type=Path, file_okay=False), help="Where MODEL and the runs lie.")
def command(
    model: str | None,
    beside: str | None,
    host: str,
    port: int,
    token_file: Path | None,
    insecure_no_auth: bool,
    open_page: bool,
    device: str,
    runs_dir: Path | None,
) -> None:
    """Serve MODEL (a run; unsaid: the one that finished last) to this machine: OpenAI's API and a page."""
    token = read_token(token_file)
    if host not in LOOPBACK and token is None and not insecure_no_auth:
        raise UsageError(
            f"--host {host} can be reached from other machines",
            hint="--token-file FILE, or --insecure-no-auth if everybody there may use it",
        )
    try:
        from picollm.serve.run import listen, serve
    except ImportError as error:
        raise MissingError(f"picollm serve needs {error.name}", hint="pip install 'picollm-train[serve]'") from None
    from picollm.cli.models import find_model

    runs = runs_dir or Layout.from_env().runs
    service = make_service(find_model(model, runs), runs, device)
    if beside is not None:
        other = make_service(find_model(beside, runs), runs, device)
        if other.name == service.name:
            raise UsageError(f"--beside {beside} is the model that is served", hint="name another run")
        service = replace(service, beside=other)
    with listen(host, port) as socket:
        address = f"http://{shown(host)}:{socket.getsockname()[1]}"
        click.echo(f"{service.about['path']} · {service.about['stage']}, step {service.about['step']:,} · {address}")
        if open_page:
            webbrowser.open(address)
        serve(service, socket, host, token)


def shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def read_token(path: Path | None) -> str | None:
    """The first line of the file. Raises UsageError for one that others may read, or that holds no token."""
    if path is None:
        return None
    try:
        with path.open(encoding="ascii") as file:
            token = file.read(MOST_TOKEN).strip()
        readable = path.stat().st_mode & 0o077
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--token-file {path}: {error}") from None
    if readable:
        raise UsageError(f"--token-file {path} can be read by others", hint=f"chmod 600 {path}")
    if len(token) < 16 or not token.isprintable() or " " in token:
        raise UsageError(f"--token-file {path} holds no token of 16 characters or more", hint="openssl rand -hex 32")
    return token


def make_service(path: Path, runs: Path, device: str) -> "Service":
    """Load the model and tie the app to what the other commands know."""
    from picollm.ckpt.store import load_model
    from picollm.infer.engine import Engine
    from picollm.model.counts import count
    from picollm.runtime.device import choose
    from picollm.serve.app import Service
    from picollm.serve.worker import Worker

    model, config, tokenizer, meta = load_model(path, choose(device))
    about = {
        "path": str(path),
        "stage": meta.stage,
        "step": meta.step,
        "params": count(config).total,
        "depth": config.depth,
        "vocab_size": config.vocab_size,
    }
    name = path.resolve().name if (path / "plan.json").exists() else meta.path.parent.parent.name
    shelf = Shelf(runs)
    return Service(
        worker=Worker(Engine(model)),
        tokenizer=tokenizer,
        name=name,
        chats=meta.stage == "sft",
        about=about,
        runs=shelf.summaries,
        metrics=shelf.metrics,
        plan=plan_words,
        explain=explain_topic,
    )


class Shelf:
    """The runs of one folder, by name only: a name never leads out of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def summaries(self) -> list[dict[str, Any]]:
        import time

        from picollm.cli.runfiles import all_runs
        from picollm.cli.runs import summary

        now = time.time()
        return [summary(run, now) for run in all_runs(self.folder)]

    def metrics(self, name: str, since: int) -> list[dict[str, Any]]:
        """Lines of a run's log from number `since` on, the unfinished last one left out. Raises MissingError."""
        from picollm.runtime import runlog

        path = self.folder / name / runlog.METRICS
        if name in ("", ".", "..") or Path(name).name != name or not path.is_file():
            raise MissingError(f"no run {name!r}")
        return runlog.read(path)[since:]


def plan_words(words: list[str]) -> dict[str, Any]:
    """`plan --json` for options that name no file. Raises UsageError."""
    from picollm.cli.knobs import request_from_words
    from picollm.cli.plan import planned
    from picollm.plan.explain import is_numeric
    from picollm.plan.knobs import find
    from picollm.plan.render import as_json

    for word in words:
        if word.startswith("-"):
            knob = find(word.partition("=")[0])
            if knob is None or not (is_numeric(knob) or knob.name.replace("_", "-") in PLAN_WORDS):
                raise UsageError(f"{word} is not asked for here")
    return as_json(planned(request_from_words(words)))


def explain_topic(topic: str) -> dict[str, Any]:
    """`explain TOPIC --json`, and its text. Raises MissingError where there is no such topic."""
    from picollm.cli.explain import answer_of
    from picollm.cli.knobs import request_from_words

    try:
        answer = answer_of(topic, None, request_from_words([]))
    except UsageError as error:
        raise MissingError(error.message, hint=error.hint) from None
    return {**answer.to_json(), "text": answer.render()}
