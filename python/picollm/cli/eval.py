"""`picollm eval`: how good a model is, in numbers that others use."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from picollm.cli.options import COUNT
from picollm.errors import MissingError, UsageError
from picollm.layout import Layout

if TYPE_CHECKING:
    from picollm.ckpt.store import Loaded
    from picollm.evals.core import Bundle
    from picollm.evals.exam import Result
    from picollm.evals.sandbox import Sandbox

SCHEMA = "picollm-eval/1"
CODE = "humaneval"
LINE = "{:<34} {:>6} {:>7}  {:>8} {:>7}  {:>8}"


@click.command("eval")
@click.argument("model", required=False)
@click.option(
    "--task",
    "tasks",
    default="bpb",
    show_default=True,
    help="Comma list: bpb, core, arc-easy, arc-challenge, mmlu, gsm8k, humaneval.",
)
@click.option("--val-shards", help="Bits per byte on another shard set, made with the same tokenizer.")
@click.option("--final", is_flag=True, help="Read a test split (with --val-shards): once, when all is decided.")
@click.option("--data", help="Where the tasks' files lie: a folder or hf://owner/name.  [default: each task's own]")
@click.option("--allow-code-exec", is_flag=True, help="Run the code that the model writes (humaneval), in a sandbox.")
@click.option("--max-per-task", type=COUNT, help="Ask only so many questions of each task.  [default: all]")
@click.option("--batch-tokens", type=COUNT, default=8192, show_default=True, help="Tokens run at once.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
@click.option("--device", default="auto", show_default=True)
@click.option("--runs-dir", type=click.Path(path_type=Path, file_okay=False), help="Where MODEL is looked for.")
def command(
    model: str | None,
    tasks: str,
    val_shards: str | None,
    final: bool,
    data: str | None,
    allow_code_exec: bool,
    max_per_task: int | None,
    batch_tokens: int,
    as_json: bool,
    device: str,
    runs_dir: Path | None,
) -> None:
    """Examine MODEL (a run; unsaid: the one that finished last): bits per byte, CORE, ARC, MMLU, GSM8K, HumanEval.

    The result also lies in the run's evals/, where `picollm report` finds it.
    """
    from picollm.ckpt.store import load_model
    from picollm.cli.models import find_model
    from picollm.evals.suite import check_tasks
    from picollm.runtime.device import choose

    path = find_model(model, runs_dir or Layout.from_env().runs)
    names = tuple(dict.fromkeys(name.strip() for name in tasks.split(",")))
    loaded = load_model(path, choose(device))
    check_tasks(names, loaded.meta.stage == "sft")
    sandbox = open_sandbox(allow_code_exec) if CODE in names else None
    sources = find_sources(names, data)
    click.echo(f"{loaded.meta.path} · {loaded.meta.stage} · step {loaded.meta.step:,}", err=True)
    parts: dict[str, dict[str, Any]] = {}
    if "bpb" in names:
        parts["final" if final else "bpb"] = say_bpb(loaded, as_json, val_shards, final)
    exam = Sitting(loaded, max_per_task, batch_tokens, as_json)
    if "core" in sources:
        parts["core"] = exam.core(sources["core"])
    if asked := {name: sources[name] for name in names if name in sources and name != "core"}:
        parts["chat"] = exam.chat(asked, sandbox)
    keep(loaded.meta.path, parts)
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, "checkpoint": str(loaded.meta.path), **parts}, indent=2))


def open_sandbox(allowed: bool) -> "Sandbox":
    """Raises UsageError without consent, MissingError where code cannot be kept in."""
    from picollm.evals.sandbox import Sandbox, require_consent

    require_consent(allowed)
    return Sandbox()


def find_sources(names: tuple[str, ...], data: str | None) -> dict[str, Any]:
    """The bundle and files of the tasks that need any, all found before the first question. Raises MissingError."""
    from picollm.evals.chats import CHAT_TASKS
    from picollm.evals.core import Bundle
    from picollm.evals.published import CORE_FILES, PREFIX, bring
    from picollm.evals.suite import find_file
    from picollm.layout import cache_dir

    if data is None and "core" in names:
        raise MissingError(
            "no files for core: nobody publishes its bundle under a fixed commit",
            hint="--data FOLDER with eval_bundle.zip or core.yaml, or --data hf://owner/name that holds it",
        )
    sources: dict[str, Any] = {}
    for name in names:
        if name not in CHAT_TASKS and name != "core":
            continue
        task = CHAT_TASKS.get(name)
        wanted = CORE_FILES if task is None else (task.published, task.pattern, f"*/{task.pattern}")
        own = PREFIX + task.repo if task else ""
        said = data or own
        folder = bring(said, wanted, cache_dir()) if said.startswith(PREFIX) else Path(said)
        sources[name] = Bundle(bundle_in(folder)) if task is None else find_file(folder, task)
    return sources


def bundle_in(data: Path) -> Path:
    """The folder with the bundle: this one, or one in it."""
    within = [data, *sorted(folder.parent for folder in data.glob("*/core.yaml"))]
    return next((root for root in within if (root / "core.yaml").exists()), data)


def run_of(checkpoint: Path) -> Path:
    """The run that a checkpoint belongs to; a checkpoint that was copied away is its own."""
    run = checkpoint.parent.parent
    return run if (run / "plan.json").is_file() else checkpoint


def say_bpb(loaded: "Loaded", quiet: bool, val_shards: str | None, final: bool) -> dict[str, Any]:
    """Bits per byte on the run's own validation rows, or on those of another set."""
    from dataclasses import replace

    import torch

    from picollm.evals.bpb import bits_per_byte
    from picollm.runtime.dist import World
    from picollm.shards.manifest import ShardSet
    from picollm.train.data import found_again, is_test, with_validation
    from picollm.train.opening import read_plan
    from picollm.train.validate import rows_of, validation_stream

    run = run_of(loaded.meta.path)
    plan = read_plan(run)
    if plan is None or plan.data is None:
        raise MissingError(f"{run}: no plan.json that names its shards", hint="--task core, which needs none")
    layout = Layout.from_env()
    data, chats = found_again(plan.data, run, layout), loaded.meta.stage == "sft"
    if chats and val_shards is None:
        raise UsageError(
            f"{run.name} learned from conversations; how well it knows those kept for validation is in its report",
            hint="--val-shards DIR for bits per byte of a text, or --task arc-easy,mmlu,gsm8k,humaneval",
        )
    if val_shards is not None:
        own = None if chats else ShardSet.open(data.path)
        data = with_validation(data, own, val_shards, layout, final=final)
    if final and not (data.val_path and is_test(ShardSet.open(data.val_path))):
        raise UsageError(
            "--final reads a test split, and none is named",
            hint="picollm shard SOURCE --dataset-split test --val-ppm 0 --out shards/NAME-test, then --val-shards that",
        )
    plan = replace(plan, data=data, val_tokens=data.val_tokens if data.val_path else plan.val_tokens)
    lengths = torch.tensor(loaded.tokenizer.byte_lengths())
    _, steps = rows_of(plan)
    with World.open(str(loaded.model.embed.weight.device.type)) as world, validation_stream(plan, world) as stream:
        found = bits_per_byte(loaded.model, stream, lengths, world, steps)
    if not quiet:
        size = f"{found.tokens:,} tokens, {found.bytes:,} bytes"
        name = Path(data.val_path).name or data.name
        click.echo(f"{found.bpb:.4f} bits per byte over {size} of {name} (rows {found.set_hash})")
    return found.to_json()


class Sitting:
    """Questions put to one model, each task's line printed when it is done."""

    def __init__(self, loaded: "Loaded", most: int | None, batch_tokens: int, quiet: bool) -> None:
        self.loaded = loaded
        self.most = most
        self.batch_tokens = batch_tokens
        self.quiet = quiet
        self.headed = False

    def core(self, bundle: "Bundle") -> dict[str, Any]:
        from picollm.evals.suite import core_results

        results = []
        for result in core_results(self.loaded.model, self.loaded.tokenizer, bundle, self.most, self.batch_tokens):
            self.line(result)
            results.append(result)
        return self.sum_up("CORE", results)

    def chat(self, files: dict[str, Path], sandbox: "Sandbox | None") -> dict[str, Any]:
        from picollm.evals.chats import CHAT_TASKS
        from picollm.evals.suite import Exam

        model, tokenizer, answers = self.loaded.model, self.loaded.tokenizer, self.loaded.meta.stage == "sft"
        exam = Exam(model, tokenizer, answers, self.most, self.batch_tokens, sandbox)
        results = []
        for name, path in files.items():
            results.append(exam.result(CHAT_TASKS[name], path))
            self.line(results[-1])
        return self.sum_up("mean of these", results)

    def line(self, result: "Result") -> None:
        if self.quiet:
            return
        if not self.headed:
            click.echo(LINE.format("task", "asked", "of", "accuracy", "± se", "centred"))
            self.headed = True
        accuracy, error = f"{result.accuracy:.1%}", f"{result.error:.1%}"
        click.echo(LINE.format(result.task, result.asked, result.whole, accuracy, error, f"{result.centred:+.4f}"))

    def sum_up(self, name: str, results: "list[Result]") -> dict[str, Any]:
        from picollm.evals.exam import mean_centred

        mean, error = mean_centred(results)
        part = sum(result.asked for result in results) < sum(result.whole for result in results)
        if not self.quiet:
            note = ", on part of the questions" if part else ""
            click.echo(f"{name} {mean:+.4f} ± {error:.4f}{note}")
        return {
            "score": mean,
            "se": error,
            "partial": part,
            "tasks": {result.task: result.to_json() for result in results},
        }


def keep(checkpoint: Path, parts: dict[str, dict[str, Any]]) -> None:
    """Leave each part in the run's evals/, durably; an older file of the same name is replaced."""
    from picollm.runtime import durable

    folder = run_of(checkpoint) / "evals"
    folder.mkdir(exist_ok=True)
    for name, part in parts.items():
        durable.write_json(folder / f"{name}.json", {"v": 1, "checkpoint": checkpoint.name, **part})
