"""`top`: how a deployment is, now and as it goes on."""

from __future__ import annotations

import json
import os
import pathlib
import sys
import time
from typing import TYPE_CHECKING

import click

from disagg_launch.commands.run import run_argument

if TYPE_CHECKING:
    from disagg_launch.watch.shape import Snapshot


@click.command()
@run_argument
@click.option("--interval", "interval_s", type=click.FloatRange(0.1), default=1.0, show_default=True, help="Seconds between two looks.")
@click.option("--once", is_flag=True, help="Look once, print plain lines, and leave.")
@click.option("--json", "as_json", is_flag=True, help="Print each look as a line of JSON (docs/watching.md describes it).")
def top(run: pathlib.Path, interval_s: float, once: bool, as_json: bool) -> None:
    """Watch the deployment in RUN (a folder or a Slurm job's id) [default: the latest]: instances, GPUs, requests, latencies.

    On a terminal it shows a page that is kept up to date; h lists its keys. Elsewhere it prints a block of plain lines for each look.
    """
    from disagg_launch.watch.look import Look

    look = Look(run)
    if not (once or as_json) and sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        from disagg_launch.watch.live import watch

        watch(look, interval_s)
        return
    _print(look(), as_json)
    while not once:
        time.sleep(interval_s)
        _print(look(), as_json)


def _print(shot: Snapshot, as_json: bool) -> None:
    from disagg_launch.watch.plain import lines

    for line in [json.dumps(shot)] if as_json else lines(shot):
        click.echo(line)
    sys.stdout.flush()
