"""`picollm doctor`: what this machine and this installation can do, with reasons."""

import importlib.metadata
import json
import os
from pathlib import Path
from types import ModuleType

import click

import picollm
from picollm.cli import checks
from picollm.cli.checks import Check
from picollm.cli.colour import paint
from picollm.errors import CheckError, UsageError
from picollm.layout import Layout
from picollm.runtime.machine import Machine

SCHEMA = "picollm.doctor/1"
MARKS = {"ok": "ok", "warn": "note", "fail": "FAIL"}


@click.command("doctor")
@click.option("--device", type=click.Choice(["auto", "cuda", "mps", "cpu"]), default="auto", help="look at this device")
@click.option("--online", is_flag=True, help="try to reach the Hub (one request)")
@click.option("--json", "machine_readable", is_flag=True, help="print one JSON object")
def command(device: str, online: bool, machine_readable: bool) -> None:
    """What this machine can do: device and number format with reasons, disk, the installation itself.

    Exit 3 if something is broken, with the line that repairs it.
    """
    found = examine(device, online)
    if machine_readable:
        value = {check.name.replace(" ", "_"): check.to_json() for check in found}
        click.echo(json.dumps({"schema": SCHEMA, "ok": not failed(found), **value}, indent=1))
    else:
        for check in found:
            click.echo(paint(f" {MARKS[check.state]:<5} {check.name + ':':<14} {check.text}"))
            if check.fix:
                click.echo(f"       {'':<14} {check.fix}")
    if broken := failed(found):
        raise CheckError(f"doctor: {', '.join(check.name for check in broken)}", hint=broken[0].fix or None)


def failed(found: list[Check]) -> list[Check]:
    return [check for check in found if check.state == "fail"]


def examine(asked: str, online: bool) -> list[Check]:
    """Every check, the cheap ones first. Raises UsageError for a device that is not there."""
    installed = checks.installation(importlib.metadata.distributions(), Path(picollm.__file__).parent)
    found = [installed, checks.extension(), checks.system(Machine.cpu())]
    torch = import_torch()
    if torch is None:
        found.append(Check("device", "fail", "torch is not installed", "pip install torch"))
    else:
        require(torch, asked)
        device = checks.device(torch, asked)
        kind = device.facts["type"]
        found += [device, checks.dtype(device, os.environ), checks.compiler(kind), checks.attention(kind)]
    found += [checks.disk(Layout.from_env()), checks.hub(os.environ, online), checks.environment_of(os.environ)]
    return found


def import_torch() -> ModuleType | None:
    """torch, imported only here; None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    return torch


def require(torch: ModuleType, asked: str) -> None:
    """Raise UsageError for a device that torch does not see."""
    if asked == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda
        why = "this torch was built without CUDA" if built is None else f"torch {torch.__version__} sees no GPU"
        raise UsageError(f"--device cuda: {why}", hint=f"{checks.CUDA_TORCH}, or --device auto")
    if asked == "mps" and not torch.backends.mps.is_available():
        raise UsageError("--device mps: this machine has no Apple GPU", hint="--device auto")
