"""`plan` and `diff`: the rank layout of a topology file, and what changes between two."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from disagg_launch.errors import BadInput

if TYPE_CHECKING:
    from disagg_launch.plan import Plan
    from disagg_launch.spec import Spec

NARROWEST = 20
source = click.Path(path_type=pathlib.Path)
set_option = click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="KEY=VALUE",
    help="A value in place of the topology file's, as in --set cluster.nodes=4; more than once for several.",
)


@click.command()
@click.argument("spec", type=source)
@set_option
@click.option("--json", "as_json", is_flag=True, help="Print plan.json.")
@click.option("--explain", is_flag=True, help="Say why each instance lies where it lies, and what other policies would cost.")
def plan(spec: pathlib.Path, sets: tuple[str, ...], as_json: bool, explain: bool) -> None:
    """Print the rank layout of SPEC: instances, ranks, and a picture of nodes x GPUs. Starts nothing and asks no cluster.

    What lint has to say goes to standard error; if some of it is an error, the exit code is 2.
    """
    from disagg_launch.plan import to_json

    topology, made = planned(spec, sets)
    wrong = complain(topology, made)
    if as_json:
        click.echo(to_json(made), nl=False)
    else:
        _print(made)
    if explain:
        from disagg_launch.layouts.explain import explanation

        click.echo("", err=as_json)
        for line in explanation(topology, made):
            click.echo(line, err=as_json)
    if wrong:
        raise BadInput(f"{spec}: the errors above would stop it; `disagg-launch lint --explain RULE` tells more")


@click.command()
@click.argument("before", type=source)
@click.argument("after", type=source)
@set_option
def diff(before: pathlib.Path, after: pathlib.Path, sets: tuple[str, ...]) -> None:
    """Print which ranks move, and which instances and nodes come or go, from BEFORE to AFTER: topology files or plan.json files.

    What is given by --set counts for AFTER.
    """
    from disagg_launch.layouts.difference import lines
    from disagg_launch.place.diff import compare

    old, new = read(before), read(after, sets)
    for line in lines(old, new, compare(old, new)):
        click.echo(line)


def read(path: pathlib.Path, sets: Sequence[str] = ()) -> Plan:
    """The plan in a plan.json, in a run folder, or of a topology file with the values `sets`."""
    from disagg_launch import plan as plans

    file = path / "plan.json" if path.is_dir() else path
    if file.suffix != ".json":
        return planned(path, sets)[1]
    if sets:
        raise BadInput(f"{file}: found a plan, in which nothing can be set; --set needs the topology file")
    try:
        return plans.from_json(file.read_text(encoding="utf-8"))
    except OSError as wrong:
        raise BadInput(f"{file}: {wrong.strerror or wrong}; a plan.json is needed") from None
    except (ValueError, KeyError, TypeError) as wrong:
        raise BadInput(f"{file}: not a plan: {wrong}") from None


def planned(path: pathlib.Path, sets: Sequence[str] = ()) -> tuple[Spec, Plan]:
    """The topology in a file with the values `sets`, and its plan."""
    from disagg_launch import place, spec

    topology = spec.load(path, sets)
    return topology, place.place(topology)


def complain(topology: Spec, made: Plan) -> bool:
    """Print what lint and the engine's module say on standard error; True if there is an error among it."""
    from disagg_launch import engines, lint, spec

    complaints = sorted({*lint.check(topology, made), *engines.check(topology, made)})
    for one in complaints:
        click.echo(str(one), err=True)
    return any(one.severity == spec.ERROR for one in complaints)


def _print(made: Plan) -> None:
    from rich.console import Console

    from disagg_launch.layouts.terminal import lines

    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    console.width = max(NARROWEST, console.width)  # COLUMNS may say 0, and then nothing at all would be printed
    # rich would leave with its own exit code when the reader of a pipe has left
    with console.capture() as text:
        for line in lines(made, console.width):
            console.print(line)
    click.echo(text.get(), nl=False)
