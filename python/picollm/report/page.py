"""One Markdown page about a run: what it is, what it can do against simple predictors, how it was made. No torch."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from picollm.model.counts import count
from picollm.plan import render
from picollm.plan.render import duration, short, size
from picollm.plan.trainplan import TrainPlan
from picollm.report.picture import draw, sparkline
from picollm.report.run import Run
from picollm.runtime import durable

PAGE, PICTURE = "report.md", "loss.svg"
WEBTEXT_BYTES = 40e9  # text GPT-2 was trained on (Radford et al. 2019, section 2.1)
BAR_WIDTH = 32
MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~])")
BASELINES = {
    "unigram": "each token by how often it occurs in the training text",
    "bigram": "each token given the one before, add-one smoothed, counted on the training text",
    "gzip": "`gzip -9` of the validation text as one file: no training text, but it remembers across documents",
    "gzip+train": "the same compressor row by row, after 32 KiB of training text: it sees what the model sees",
}


def write_report(run: Run) -> Path:
    """Leave `loss.svg` and `report.md` in the run's folder, durably; the page's path. An older report is replaced."""
    durable.write(run.path / PICTURE, draw(run).encode())
    durable.write(run.path / PAGE, page(run).encode())
    return run.path / PAGE


def page(run: Run) -> str:
    """The page as Markdown. Reads nothing but `run`: same run, same page."""
    plan = TrainPlan.from_json(run.plan["plan"]) if "plan" in run.plan else None
    sections = [
        opening(run, plan),
        [f"![loss curve of {run.name}]({PICTURE})"],
        comparison(run),
        replies(run),
        facts(run),
        exams(run),
        four_layers(plan),
        budget(run, plan),
        custody(run, plan),
    ]
    return "\n\n".join("\n".join(lines) for lines in map(list, sections) if lines) + "\n"


def plain(text: str) -> str:
    """`text` on one line, with nothing in it that Markdown would obey."""
    return MARKUP.sub(r"\\\1", " ".join(text.split()))


def is_sft(plan: TrainPlan | None) -> bool:
    return plan is not None and plan.request.get("stage") == "sft"


def opening(run: Run, plan: TrainPlan | None) -> Iterator[str]:
    yield f"# {plain(run.name)}"
    yield ""
    yield what_it_is(run, plan) + " " + standing(run, plan)
    if best := run.best:
        loss = [value for _, value in run.curve("loss")]
        about = "the assistant's words in held-out chats" if is_sft(plan) else "held-out text"
        yield ""
        yield f"**{best[1]:.3f} bits per byte** on {about}, best at step {best[0]:,} · training `{sparkline(loss, 16)}`"
    if line := honesty(run, plan):
        yield ""
        yield f"> {line}"
    for warning in run.kind("warning"):
        if warning.get("code") == "W403":
            yield ""
            yield (
                f"**W403** by step {warning['step']:,} validation had been worse than at step {warning['best']:,} five"
                f" times while training improved (gap {warning['gap']:.2f} nats): it was learning its text by heart."
            )


def what_it_is(run: Run, plan: TrainPlan | None) -> str:
    if plan is None:
        return f"A run of {run.steps_done:,} steps."
    model = plan.model
    source = corpus(run, plan)
    verb = "tuned on the chats of" if is_sft(plan) else "trained on"
    return (
        f"A GPT of {short(count(model).total)} parameters ({model.depth} layers × {model.width}, {model.heads} heads, "
        f"context {model.seq_len:,}), {verb} *{plain(source)}*."
    )


def corpus(run: Run, plan: TrainPlan) -> str:
    """What the text is called: the source of the shards where that is known, else their folder."""
    return str(run.evals.get("baselines", {}).get("corpus") or (plan.data.name if plan.data else "unknown text"))


def standing(run: Run, plan: TrainPlan | None) -> str:
    """Finished, or where it stands and why."""
    if plan is None or run.steps_done >= plan.steps:
        return f"{run.steps_done:,} steps took {clock(run.seconds)}."
    reason = run.exit.get("reason")
    because = f" ({plain(str(reason))})" if reason else ""
    return f"**Not finished**: step {run.steps_done:,} of {plan.steps:,} after {clock(run.seconds)}{because}."


def honesty(run: Run, plan: TrainPlan | None) -> str:
    """What to expect of a model that has read this much."""
    if is_sft(plan):
        return "It knows the chats it was shown. What it was not told it makes up."
    if plan is None or plan.data is None:
        return ""
    data = plan.data
    if not data.train_tokens or not data.train_bytes or not run.tokens_done:
        return ""
    read = run.tokens_done * data.train_bytes / data.train_tokens
    more = WEBTEXT_BYTES / read
    source = plain(corpus(run, plan))
    start = f"This model has read {short(run.tokens_done)} tokens of {source}, {size(round(read))} of text."
    if more < 2:
        return f"{start} That is no less than the 40 GB GPT-2 was trained on; its size is what limits it now."
    expect = "Expect fragments." if more > 100 else "Expect sentences, not knowledge."
    return f"{start} GPT-2's training text was {float(f'{more:.1g}'):,.0f} times as much. {expect}"


def comparison(run: Run) -> Iterator[str]:
    """The model's best validation among the baselines, lowest first, as bars of equal scale."""
    base, best = run.baselines(), run.best
    if not base or best is None:
        return
    rows = [("**this model**", best[1], "given all before it in its row")]
    rows += [(name, value, BASELINES.get(name, "")) for name, value in base.items()]
    most = max(value for _, value, _ in rows)
    yield "## Against simple predictors"
    yield ""
    yield "All on the same validation bytes; lower is better."
    yield ""
    yield "| predictor | bits per byte | | how it predicts |"
    yield "|---|--:|:--|---|"
    for name, value, how in sorted(rows, key=lambda row: row[1]):
        bar = "█" * max(1, round(BAR_WIDTH * value / most))
        shown = f"**{value:.3f}**" if name.startswith("*") else f"{value:.3f}"
        yield f"| {name} | {shown} | `{bar}` | {how} |"
    hashes = {line.get("set_hash") for line in run.kind("eval")} | {run.evals["baselines"].get("set_hash")}
    if len(hashes - {None}) > 1:
        yield ""
        yield "**These figures are of different rows and must not be compared:** " + ", ".join(sorted(map(str, hashes)))


def replies(run: Run) -> Iterator[str]:
    """What it said, from evals/replies.json: `replies`, each with `prompt` and `reply`."""
    said = run.evals.get("replies", {}).get("replies", [])
    if said:
        yield "## What it says"
    for one in said:
        yield ""
        yield f"> **you** {plain(one['prompt'])}  "
        yield f"> **{plain(run.name)}** {plain(one['reply'])}"


def facts(run: Run) -> Iterator[str]:
    """Right answers by kind, from evals/facts.json: asked as trained, and held out of all training."""
    found = run.evals.get("facts", {})
    trained, held = found.get("trained", {}), found.get("held_out", {})
    if not trained:
        return
    yield "## What it learned"
    yield ""
    yield "| facts | seen in training | held out |"
    yield "|---|--:|--:|"
    for kind, seen in trained.items():
        unseen = held.get(kind)
        other = f"{unseen['right']} of {unseen['n']}" if unseen else "none"
        yield f"| {plain(kind)}s | {seen['right']} of {seen['n']} | {other} |"
    yield ""
    yield "Exact answers, the likeliest word each time. A held-out fact that is right was worked out, not remembered."


def exams(run: Run) -> Iterator[str]:
    """What `picollm eval` found: evals/core.json and evals/chat.json."""
    for name, title in (("core", "CORE"), ("chat", "Questions with one right answer")):
        found = run.evals.get(name, {})
        if not found.get("tasks"):
            continue
        part = ", on part of the questions" if found.get("partial") else ""
        yield f"## {title}"
        yield ""
        yield f"**{found['score']:+.4f} ± {found['se']:.4f}**, 0 is what knowing nothing gives, 1 is all right{part}."
        yield ""
        yield "| task | shots | asked | right | ± | centred |"
        yield "|---|--:|--:|--:|--:|--:|"
        for task, one in found["tasks"].items():
            asked = f"{one['n']:,} of {one['of']:,}" if one["n"] < one["of"] else f"{one['n']:,}"
            yield (
                f"| {plain(task)} | {one['shots']} | {asked} | {one['accuracy']:.1%} | {one['se']:.1%} "
                f"| {one['centred']:+.3f} |"
            )


def four_layers(plan: TrainPlan | None) -> Iterator[str]:
    if plan is None:
        return
    lines = [*render.data_lines(plan), *render.token_lines(plan)]
    if is_sft(plan):  # its table of rates explains those of a base run
        lines += [next(render.shape_lines(plan)), *render.effort_lines(plan)]
    else:
        lines += [*render.shape_lines(plan), *render.effort_lines(plan), *render.resource_lines(plan)]
    yield "## The plan in four layers"
    yield ""
    yield "```text"
    yield from (line.rstrip() for line in lines)
    yield "```"


def budget(run: Run, plan: TrainPlan | None) -> Iterator[str]:
    """Predicted against actual, and where the time went."""
    if not run.kind("step"):
        return
    yield "## Predicted and actual"
    yield ""
    yield "| | predicted | actual | error |"
    yield "|---|--:|--:|--:|"
    if plan is not None:
        yield f"| steps | {plan.steps:,} | {run.steps_done:,} | |"
        yield f"| tokens | {plan.tokens:,} | {run.tokens_done:,} | |"
        expects = not is_sft(plan)  # its plan inherits these figures from the base run, so they are not of this one
        yield from predictions(run, plan) if expects else [f"| time | – | {clock(run.seconds)} | |"]
        if expects:
            yield ""
            basis = f"measured before the run, {plan.measured}" if plan.measured else "formulas and an assumed share of"
            yield f"Predicted from: {basis}" + ("." if plan.measured else " the peak rate (`picollm plan --measure`).")
    yield ""
    yield speeds(run)
    yield ""
    yield shares(run)


def predictions(run: Run, plan: TrainPlan) -> Iterator[str]:
    """Time, speed, memory and cost: as the plan had them, as the run went, and by how much they differ."""

    def row(name: str, said: float, found: float, form: Callable[[float], str]) -> str:
        whole = run.steps_done == plan.steps or name not in ("time", "cost")
        error = f"{100 * (said / found - 1):+.0f} %" if said and found and whole else ""
        return f"| {name} | {form(said) if said else '–'} | {form(found)} | {error} |"

    estimate = plan.estimate
    yield row("time", estimate.seconds, run.seconds, clock)
    predicted = plan.tokens_per_step / plan.measured.step if plan.measured else estimate.tokens_per_second(plan.model)
    if rate := run.median("tok_s"):
        yield row("tokens/s", predicted, rate, lambda value: f"{value:,.0f}")
    if peak := max((line.get("mem_peak") or 0 for line in run.kind("step")), default=0):
        yield row("memory", plan.memory.peak, peak, mib)
    if estimate.price:
        actual = run.seconds / 3600 * plan.ranks * estimate.price
        yield row("cost", estimate.dollars(plan.ranks), actual, lambda value: f"${value:,.2f}")


def speeds(run: Run) -> str:
    rate, waiting, step = run.median("tok_s"), run.median("data_wait_ms"), run.median("dt_ms")
    said = [f"{rate:,.0f} tokens/s" if rate else ""]
    said += [f"{step:,.0f} ms a step" if step else ""]
    said += [f"{100 * mfu:.0f} % of the peak rate" if (mfu := run.median("mfu_bf16")) else ""]
    said += [f"{100 * waiting / step:.1f} % of it waiting for data" if step and waiting is not None else ""]
    return "Median step: " + ", ".join(one for one in said if one) + f" ({len(run.timed):,} steps counted)."


def shares(run: Run) -> str:
    """Seconds of training, evaluating and saving; the rest is opening, building and closing."""
    training = sum(line.get("dt_ms") or 0.0 for line in run.kind("step")) / 1000
    spent = {"training": training}
    spent |= {name: sum(line.get("seconds") or 0.0 for line in run.kind(kind)) for name, kind in KINDS.items()}
    spent["the rest"] = max(0.0, run.seconds - sum(spent.values()))
    return "Time: " + " · ".join(f"{name} {clock(seconds)}" for name, seconds in spent.items()) + "."


KINDS = {"evaluating": "eval", "saving": "save"}


def custody(run: Run, plan: TrainPlan | None) -> Iterator[str]:
    """What it was made from, by hash, and the command that makes it again."""
    yield "## Where it comes from"
    yield ""
    hashes = run.plan.get("hashes", {})
    for name in ("shards", "tokenizer"):
        if name in hashes:
            yield f"- {name}: `{hashes[name]}`"
    versions = run.plan.get("versions", {})
    if versions:
        yield "- made with " + ", ".join(f"{name} {plain(str(value))}" for name, value in versions.items())
    saves = run.kind("save")
    if saves:
        yield f"- newest checkpoint: `{saves[-1]['path']}`, {size(saves[-1]['bytes'])}"
    if plan is not None and not is_sft(plan):
        yield f"- again: `{render.command(plan)}`"
    yield f"- talk to it: `picollm chat {run.name}`"
    yield "- every step: `metrics.jsonl`"


def clock(seconds: float) -> str:
    """`0.4 s`, `48 s`, `2:48`, then as plans say it."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}" if seconds < 3600 else duration(seconds)


def mib(count: float) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"
