"""`logs`: what the instances say, in the order of time."""

from __future__ import annotations

import json
import os
import pathlib
import resource
import sys
import time
from typing import TYPE_CHECKING, Optional

import click

from disagg_launch.commands.run import run_folder
from disagg_launch.errors import BackendRefused
from disagg_launch.runtime import logbook

if TYPE_CHECKING:
    from disagg_launch.logs import Entry

COLOURS = ("cyan", "green", "magenta", "blue", "bright_cyan", "bright_green", "bright_magenta", "bright_blue")
ASK_S = 1.0
LOST_TIMES = 3
"""A gateway that does not answer so often in a row is gone; one that is just beginning may not answer yet."""
GRAVE = {"error": "red", "warning": "yellow"}


@click.command()
@click.argument("words", nargs=-1, metavar="[RUN] [INSTANCES]...")
@click.option("-f", "--follow", is_flag=True, help="Go on as lines come, until the run ends or Ctrl-C; also before it has begun.")
@click.option("-n", "--last", type=click.IntRange(min=0), metavar="N", help="Only the last N lines.")
@click.option("--since", metavar="WHEN", help="Only from then on: 90s, 10m, 2h or 1d before the newest line, or a date and time.")
@click.option("--level", type=click.Choice(["error", "warning", "info", "debug"]), help="Only lines so grave or graver.")
@click.option("--rank", "ranks", multiple=True, metavar="R", help="Only what this rank of an instance says (-: its launcher); repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each line.")
def logs(
    words: tuple[str, ...],
    follow: bool,
    last: Optional[int],
    since: Optional[str],
    level: Optional[str],
    ranks: tuple[str, ...],
    as_json: bool,
) -> None:
    """Print the logs of RUN [default: the latest] in the order of time; of INSTANCES (ctx0, 'gen*', router, gateway) only, if given.

    RUN is a folder or a Slurm job's id. Each line is in the order in which the gateway got it, by its clock, whichever node it came from.
    """
    from disagg_launch import logs as merged

    run, instances = _run_and_instances(words)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # one file for each of hundreds of instances
    wanted = merged.Wanted(instances, ranks, level or "", merged.since(run, since) if since else "", last)
    coloured = sys.stdout.isatty()
    print_one = _as_json if as_json else _Coloured() if coloured else _plain
    for batch in merged.merged(run, wanted, _GoingOn(run) if follow else None, coloured or as_json):
        click.echo("\n".join(map(print_one, batch)))


def _run_and_instances(words: tuple[str, ...]) -> tuple[pathlib.Path, tuple[str, ...]]:
    """The run that the first word names, a folder or a job's id, or the latest; and the words behind it."""
    if words and (words[0][:1].isdigit() or os.sep in words[0] or os.path.isdir(words[0])):
        return run_folder(words[0]), words[1:]
    return run_folder(), words


class _GoingOn:
    """Whether the run may still say something."""

    def __init__(self, run: pathlib.Path) -> None:
        from disagg_launch.watch import state

        self._run, self._ask = run, state.Status()
        self._expected = {*state.LIVING, "rendered", "pending"}
        self._asked_s, self._lost, self._answer = 0.0, 0, True
        self._told = ""

    def __call__(self) -> bool:
        if time.monotonic() - self._asked_s >= ASK_S:
            self._asked_s = time.monotonic()
            try:
                status = self._ask(self._run)
            except BackendRefused:
                return self._answer  # Slurm is not to be reached now; the files are
            found = status["state"]
            if found == "pending" and status["job"] != self._told:
                self._told = status["job"]
                click.echo(self._told, err=True)  # why nothing comes
            self._lost = self._lost + 1 if found == "lost" else 0
            self._answer = found in self._expected or 0 < self._lost < LOST_TIMES
        return self._answer


def _plain(one: Entry) -> str:
    return f"{one.name:>8} {one.raw}"


def _as_json(one: Entry) -> str:
    return json.dumps({"instance": one.name, "rank": one.rank, "at": one.stamp, "level": one.level, "text": one.text})


class _Coloured:
    """Each log's name in a colour of its own, what is grave in red or yellow."""

    def __init__(self) -> None:
        self._colours: dict[str, str] = {}

    def __call__(self, one: Entry) -> str:
        colour = self._colours.setdefault(one.name, COLOURS[len(self._colours) % len(COLOURS)])
        raw = logbook.printable(one.raw)
        text = click.style(raw, fg=GRAVE[one.level]) if one.level in GRAVE else raw
        return f"{click.style(f'{one.name:>8}', fg=colour)} {text}"
