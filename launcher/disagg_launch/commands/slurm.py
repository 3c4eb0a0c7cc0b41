"""`submit`, `wait`, `cancel`, `site`: what is done with a deployment from a login node."""

from __future__ import annotations

import pathlib
import tempfile
from typing import TYPE_CHECKING, Optional

import click

from disagg_launch.commands.plan import set_option
from disagg_launch.errors import BadInput

if TYPE_CHECKING:
    from disagg_launch.files import File
    from disagg_launch.spec import Spec

job_argument = click.argument("run", metavar="RUN|JOB")


@click.command()
@click.argument("specs", metavar="SPEC...", nargs=-1, required=True, type=click.Path(path_type=pathlib.Path))
@set_option
@click.option("--run", type=click.Path(path_type=pathlib.Path), help="The run folder. [default: runs/NAME, counted up]")
@click.option("--dry-run", is_flag=True, help="Print every text that would be sent, and send nothing.")
@click.option("--test-only", is_flag=True, help="Ask Slurm when and where the job could start, and send nothing.")
def submit(specs: tuple[pathlib.Path, ...], sets: tuple[str, ...], run: Optional[pathlib.Path], dry_run: bool, test_only: bool) -> None:
    """Render SPEC and send it to Slurm. Prints the job id and nothing else; with --test-only, Slurm's answer.

    Several SPECs become one job array; their run folders are 0, 1, ... in the array's. What is given by --set counts for all of them.
    """
    from disagg_launch.backends.slurm import jobs
    from disagg_launch.commands import run as runs

    rendered = [runs.rendered(spec, "slurm", sets) for spec in specs]
    if dry_run:
        for _, _, files in rendered:
            runs.show(files)
    elif test_only:
        for topology, _, files in rendered:
            click.echo(f"{topology.name}: {_tested(files)}")
    elif len(specs) == 1:
        topology, _, files = rendered[0]
        click.echo(jobs.send(runs.written(topology, files, run)))
    else:
        click.echo(_sent_together(specs, rendered, run))


def _tested(files: tuple[File, ...]) -> str:
    from disagg_launch import render
    from disagg_launch.backends.slurm import jobs

    with tempfile.TemporaryDirectory(prefix="disagg-launch-") as folder:
        render.write(files, pathlib.Path(folder))
        return jobs.test(pathlib.Path(folder))


def _sent_together(specs: tuple[pathlib.Path, ...], rendered: list[tuple[Spec, str, tuple[File, ...]]], run: Optional[pathlib.Path]) -> str:
    """The id of the array that runs them."""
    from disagg_launch.backends import slurm
    from disagg_launch.backends.slurm import jobs as sent
    from disagg_launch.commands import run as runs

    texts = {str(spec): {one.path: str(one.text) for one in files} for spec, (_, _, files) in zip(specs, rendered)}
    _check_ports({name: _fixed_ports(files) for name, files in texts.items()})
    script = slurm.array({name: files["job.sbatch"] for name, files in texts.items()})
    folder = run or runs.unused(runs.RUNS / "array")
    for number, (topology, _, files) in enumerate(rendered):
        runs.written(topology, files, folder / str(number))
    (folder / script.path).write_text(str(script.text), encoding="utf-8")
    return sent.send_array(folder, len(specs))


def _fixed_ports(files: dict[str, str]) -> set[int]:
    """The ports of a run folder that stay as they are, because its topology file gives them."""
    from disagg_launch import launch, plan

    laid, made = plan.from_json(files["plan.json"]), launch.from_json(files["launch.json"])
    workers = set() if made.ports.workers else {one.port for one in laid.instances}
    front = {made.router.port, made.router.admin_port or made.router.port}
    return workers | (set() if made.ports.router else front)


def _check_ports(fixed: dict[str, set[int]]) -> None:
    """BadInput when two tasks of an array, which Slurm may put on the same nodes, insist on the same port."""
    owner: dict[int, str] = {}
    for name, ports in fixed.items():
        for port in ports:
            if owner.setdefault(port, name) != name:
                why = f"port {port} is one of {owner[port]}'s too, and both may run on one node"
                raise BadInput(f"{name}: {why}; set port and cluster.base_port apart, or leave them out")


@click.command()
@job_argument
@click.option("--limit-s", type=click.FloatRange(min=0), default=float("inf"), help="Give up after so many seconds. [default: never]")
def wait(run: str, limit_s: float) -> None:
    """Wait until a submitted run is ready, and print the front door's URL. Exit code 5 after --limit-s, 6 if it failed."""
    from disagg_launch.backends.slurm import jobs

    folder = jobs.folder_of(run)
    click.echo(jobs.wait(folder, limit_s, lambda text: click.echo(text, err=True)))


@click.command()
@job_argument
@click.option("--patience-s", type=click.FloatRange(min=0), default=60.0, show_default=True, help="How long it may take to stop in order.")
def cancel(run: str, patience_s: float) -> None:
    """Stop a submitted run in order, or take it out of the queue; comes back when its job has ended."""
    from disagg_launch.backends.slurm import jobs

    folder = pathlib.Path(run)
    job = jobs.job_of(folder) if folder.is_dir() else run
    if job is None or not job[0].isdigit():
        raise BadInput(f"{run}: neither a job id nor a run folder that a job was sent from")
    seen = jobs.cancel(job, patience_s)
    if seen.state == jobs.GONE and job == run:
        raise BadInput(seen.sentence())
    click.echo(seen.sentence())


@click.group()
def site() -> None:
    """Site profiles: what is true of a cluster and not of a deployment."""


@site.command("list")
def list_() -> None:
    """Print the profiles that come with the program."""
    from disagg_launch.backends.slurm import site as sites

    for name, about in sites.names().items():
        click.echo(f"{name:14} {about}")


@site.command()
@click.argument("name")
def show(name: str) -> None:
    """Print a profile, given by name or path, as far as it differs from the defaults."""
    from disagg_launch.backends.slurm import site as sites

    click.echo(sites.to_yaml(sites.load(name)), nl=False)


@site.command()
@click.option("-o", "--out", type=click.Path(path_type=pathlib.Path, dir_okay=False), help="The file to write. [default: standard output]")
def probe(out: Optional[pathlib.Path]) -> None:
    """Write a profile by asking the cluster whose login node this is; it then works from anywhere (slurm: {site: FILE})."""
    from disagg_launch.backends.slurm import probe as asked
    from disagg_launch.backends.slurm import site as sites

    text = sites.to_yaml(asked.probe())
    if out is None:
        click.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")
