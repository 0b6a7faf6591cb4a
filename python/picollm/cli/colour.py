"""Colour where a terminal wants it: NO_COLOR, CLICOLOR_FORCE and TERM=dumb decide, else whether it is a terminal."""

import json
import re
from collections.abc import Mapping
from typing import Any, Protocol

import click

STYLES = (
    (re.compile(r"\b(YES|W[1-5][0-9]{2})\b"), {"fg": "yellow", "bold": True}),
    (re.compile(r"\b(FAIL|E[1-5][0-9]{2})\b|stops train"), {"fg": "red", "bold": True}),
)


def wanted(environment: Mapping[str, str]) -> bool | None:
    """False: never, True: always, None: as the stream is. NO_COLOR wins (no-color.org: any value but empty)."""
    if environment.get("NO_COLOR"):
        return False
    if environment.get("CLICOLOR_FORCE", "0") not in ("", "0"):
        return True
    return False if environment.get("TERM") == "dumb" else None


def paint(text: str) -> str:
    """Codes and verdicts stand out; `click.echo` takes the colours off again where none are wanted."""
    for pattern, style in STYLES:
        text = pattern.sub(lambda match, style=style: click.style(match[0], **style), text)  # type: ignore[misc]
    return text


class Answer(Protocol):
    """What has a form for people and one for programs."""

    def render(self) -> str: ...
    def to_json(self) -> dict[str, Any]: ...


def show(answer: Answer, *, machine_readable: bool) -> None:
    """Print an answer on stdout: one JSON object, or text."""
    text = json.dumps(answer.to_json(), indent=1) + "\n" if machine_readable else paint(answer.render())
    click.echo(text, nl=False)
