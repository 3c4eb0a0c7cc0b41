"""`render`, `up`, `down`, `status`, `logs`: from a topology file to a run folder, and what is done with one."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Optional

import click

from disagg_launch.errors import BadInput

if TYPE_CHECKING:
    from disagg_launch.files import File
    from disagg_launch.spec import Spec

RUNS = pathlib.Path("runs")
LATEST = RUNS / "latest"

spec_argument = click.argument("spec", type=click.Path(path_type=pathlib.Path))
run_argument = click.argument("run", type=click.Path(path_type=pathlib.Path), default=LATEST)
run_option = click.option("--run", type=click.Path(path_type=pathlib.Path), help="The run folder. [default: runs/NAME, counted up]")
backend_option = click.option(
    "--backend",
    type=click.Choice(["local", "mpirun", "slurm"]),
    help="Who starts the steps. [default: slurm if the file has a map `slurm`, else local]",
)


@click.command()
@spec_argument
@run_option
@backend_option
@click.option("--dry-run", is_flag=True, help="Print every text that would be written, and write nothing.")
def render(spec: pathlib.Path, run: Optional[pathlib.Path], backend: Optional[str], dry_run: bool) -> None:
    """Write the run folder of SPEC and start nothing. Prints the folder's path."""
    topology, files = _rendered(spec, backend)
    if dry_run:
        for one in files:
            if isinstance(one.text, str):
                click.echo(f"==> {one.path} <==\n{one.text}")
        return
    click.echo(_written(topology, files, run))


@click.command(context_settings={"ignore_unknown_options": False})
@spec_argument
@run_option
@backend_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def up(spec: pathlib.Path, run: Optional[pathlib.Path], backend: Optional[str], command: tuple[str, ...]) -> None:
    """Render SPEC, start it, wait until every instance is ready, open the router; stay until Ctrl-C.

    With `-- COMMAND ...` the command runs once the router is open (DISAGG_URL names it), then everything is stopped; its exit code is ours.
    """
    topology, files = _rendered(spec, backend)
    folder = _written(topology, files, run)
    click.echo(f"run folder: {folder}", err=True)
    gateway = [sys.executable, str(folder / "runtime.pyz"), "gateway", str(folder)]
    if not command:
        os.execv(gateway[0], gateway)  # noqa: S606
    sys.exit(_with_command(gateway, folder, command))


def _rendered(path: pathlib.Path, backend: Optional[str]) -> tuple[Spec, tuple[File, ...]]:
    from disagg_launch import lint, place, render, spec

    topology = spec.load(path)
    plan = place.place(topology)
    complaints = lint.check(topology, plan)
    for one in complaints:
        click.echo(str(one), err=True)
    if any(one.severity == spec.ERROR for one in complaints):
        raise BadInput(f"{path}: the errors above stop it; each names its rule, `disagg-launch lint --explain RULE` tells more")
    chosen = backend or ("slurm" if "slurm" in topology.model_fields_set else "local")
    # this interpreter has the package; nodes of a cluster are promised only a python3
    python = "python3" if chosen == "slurm" else sys.executable
    return topology, render.render(topology, plan, chosen, python)


def _written(topology: Spec, files: tuple[File, ...], run: Optional[pathlib.Path]) -> pathlib.Path:
    from disagg_launch import render

    folder = (run or _unused(RUNS / topology.name)).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    render.write(files, folder)
    if run is None:
        fresh = LATEST.with_name(f".latest.{os.getpid()}")
        fresh.symlink_to(folder.name)
        fresh.replace(LATEST)
    return folder


def _unused(base: pathlib.Path) -> pathlib.Path:
    """`base`, or base-2, base-3, ...: the first that no gateway has used."""
    folder, number = base, 1
    while (folder / "state").exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder
