"""`render`, `up`, `down`, `status`: from a topology file to a run folder, and what is done with one."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Optional

import click

from disagg_launch import backends
from disagg_launch.commands.plan import complain, planned, set_option
from disagg_launch.errors import BackendRefused, BadInput, NotReady, WorkerDied
from disagg_launch.plan import PREFIX

if TYPE_CHECKING:
    from disagg_launch.files import File
    from disagg_launch.spec import Spec

RUNS = pathlib.Path("runs")
LATEST = RUNS / "latest"
POLL_S = 0.1


def run_folder(value: str | pathlib.Path = LATEST) -> pathlib.Path:
    """The run folder of that path, or the one that the Slurm job of that number was sent from. BadInput if there is none."""
    if os.path.isdir(value):
        return pathlib.Path(value)
    if str(value)[:1].isdigit():
        from disagg_launch.backends.slurm import jobs

        return jobs.folder_of(str(value))
    raise BadInput(f"{value}: found no such folder; needed: a run folder, which `disagg-launch up` or `submit` makes, or a Slurm job's id")


folder_type = click.Path(path_type=pathlib.Path)
spec_argument = click.argument("spec", type=folder_type)
run_argument = click.argument("run", type=run_folder, default=LATEST)
run_option = click.option("--run", type=folder_type, help="The run folder. [default: runs/NAME, counted up]")
backend_option = click.option(
    "--backend",
    type=click.Choice(backends.BACKENDS),
    help="Who starts the steps. [default: slurm if the file has a map `slurm`, else local]",
)


@click.command()
@spec_argument
@set_option
@run_option
@backend_option
@click.option("--dry-run", is_flag=True, help="Print every text that would be written, and write nothing.")
def render(spec: pathlib.Path, sets: tuple[str, ...], run: Optional[pathlib.Path], backend: Optional[str], dry_run: bool) -> None:
    """Write the run folder of SPEC and start nothing. Prints the folder's path."""
    topology, _, files = rendered(spec, backend, sets)
    if dry_run:
        show(files)
    else:
        click.echo(written(topology, files, run))


@click.command()
@spec_argument
@set_option
@run_option
@backend_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def up(spec: pathlib.Path, sets: tuple[str, ...], run: Optional[pathlib.Path], backend: Optional[str], command: tuple[str, ...]) -> None:
    """Render SPEC, start it, wait until every instance is ready, open the router; stay until Ctrl-C.

    With `-- COMMAND ...` the command runs once the router is open (DISAGG_URL names it), then everything is stopped; its exit code is ours.
    """
    if command and not shutil.which(command[0]):
        raise BackendRefused(f"{command[0]}: found no such program; give the path of one after --")
    topology, chosen, files = rendered(spec, backend, sets)
    backends.load(chosen).gateway("", os.environ)  # refuses here if it can run nothing: a folder that counts as used would stay
    folder = written(topology, files, run, begins=True)
    click.echo(f"run folder: {folder}", err=True)
    gateway = backends.load(chosen).gateway(str(folder), os.environ)
    if not command:
        os.execvp(gateway[0], gateway)  # noqa: S606
    sys.exit(_with_command(gateway, folder, command))


@click.command()
@run_argument
def down(run: pathlib.Path) -> None:
    """Stop the deployment in RUN [default: the latest] in order, and come back when everything has ended."""
    from disagg_launch.runtime import folder

    path = str(run.resolve())
    folder.call(path, {"kind": "stop"})
    while True:
        with contextlib.suppress(BackendRefused):
            folder.claim(path).close()
            return
        time.sleep(POLL_S)


@click.command()
@run_argument
@click.option("--json", "as_json", is_flag=True, help="Print state/status.json.")
def status(run: pathlib.Path, as_json: bool) -> None:
    """Say how the deployment in RUN (a folder or a Slurm job's id) [default: the latest] is.

    Exit code 0 if it is ready, 5 if not yet, 6 if it failed or is down.
    """
    found = _status(run)
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        for line in [*_status_lines(found), *_failure(run, found)]:
            click.echo(line)
    sys.exit({"ready": 0, "starting": NotReady.exit_code, "pending": NotReady.exit_code}.get(found["state"], WorkerDied.exit_code))


def _status(run: pathlib.Path) -> dict[str, Any]:
    """What the gateway wrote last, if there was one, and what Slurm says."""
    from disagg_launch.backends.slurm import jobs
    from disagg_launch.watch import state

    if not (run / "plan.json").exists():
        jobs.check_one(run)
        raise BadInput(f"{run}: no run folder (it has no plan.json); name one that `disagg-launch up` or `submit` made, or a job's id")
    found = state.status(run)
    if found["state"] == "rendered":
        raise BadInput(f"{run}: no gateway has run here yet; start one with `disagg-launch up`")
    return found


def _status_lines(found: dict[str, Any]) -> list[str]:
    from disagg_launch.place.numbers import counted

    if "instances" not in found:
        return [found["job"]]
    lines = [found["job"]] if found.get("job") else []
    over = found["state"] in ("stopped", "failed")
    degraded = {} if over else found.get("degraded", {})
    state = f"{found['state']}{' but DEGRADED' if degraded else ''}"
    lines += [f"{found['name']} (plan {found['digest']}): {state}, {found['router']['url']}"]
    lines += [f"  DEGRADED: {name} cannot be started now: {why}" for name, why in degraded.items()]
    for one in [*found["instances"], found["router"]]:
        restarts = f", {counted(one['restarts'], 'restart')}" if one["restarts"] else ""
        stage = one["ended"] or ("stopped" if over or one["name"] in found.get("resting", ()) else one["stage"])
        lines.append(f"  {one['name']:8} {stage}{restarts}  {one['url']}  {'' if over else _pids(one) + one['detail']}".rstrip())
    for job in (one for one in found.get("further", ()) if one["state"] != "stopped"):
        lines.append(f"  {job['folder']}: {_of_further(job)}")
        lines += [f"    {one['name']:6} {one['ended'] or one['stage']}  {one['url']}" for one in job["instances"]]
    return [*lines, *_autoscale_lines(found.get("autoscale"))]


def _pids(instance: dict[str, Any]) -> str:
    """The first rank's process, for whoever wants to look at it or to end it; `--json` has all of them."""
    ranks = instance["ranks"]
    if instance["ended"] or not ranks or not ranks[0].get("pid"):
        return ""
    more = f" and {len(ranks) - 1} more" if len(ranks) > 1 else ""
    return f"pid {ranks[0]['pid']}{more}  "


def _of_further(job: dict[str, Any]) -> str:
    """How a further Slurm job is: what its gateway says, or Slurm as long as it has none."""
    from disagg_launch.backends.slurm import jobs

    if job["state"] == "sent":
        return jobs.ask(job["job"]).sentence()
    return f"job {job['job']}: {job['state']} {job['reason']}".rstrip()


def _autoscale_lines(told: Optional[dict[str, Any]]) -> list[str]:
    if not told:
        return []
    lines = [f"  autoscale {PREFIX[role]}: {one['instances']}, wished {one['wish']}: {one['why']}" for role, one in told["roles"].items()]
    lines += [f"  autoscale: {told['trouble']}"] if told["trouble"] else []
    last = told["last"]
    return [*lines, f"  autoscale at {last['time']}: {' '.join(last['words'])} ({last['why']}): {last['outcome']}"] if last else lines


def _failure(run: pathlib.Path, found: dict[str, Any]) -> list[str]:
    """The verdict in one line, if there is one."""
    from disagg_launch import explanation
    from disagg_launch.runtime import verdict

    told = explanation.read(run) if found["state"] in ("failed", "lost", "stopped") else {}
    if not told or not verdict.one_line(told):
        return []
    return [f"  {verdict.one_line(told)}" + (f"; `disagg-launch explain {run}` tells more" if told["cause"] else "")]


def _with_command(gateway: Sequence[str], folder: pathlib.Path, command: tuple[str, ...]) -> int:
    """The exit status of `command`, run between the open router and an orderly stop; the gateway's if it did not get that far."""
    watcher = subprocess.Popen(gateway, stdout=subprocess.PIPE, text=True)
    try:
        assert watcher.stdout is not None
        said = watcher.stdout.readline()
        if not said.startswith("ready: "):
            return watcher.wait()
        environ = {**os.environ, "DISAGG_RUN": str(folder), "DISAGG_URL": said.removeprefix("ready: ").strip()}
        return _while(watcher, subprocess.Popen(command, env=environ))
    finally:
        with contextlib.suppress(KeyboardInterrupt):
            watcher.terminate()
            watcher.wait()


def _while(watcher: subprocess.Popen[str], command: subprocess.Popen[bytes]) -> int:
    """The exit status of `command`; it is ended, and the watcher's status given, if the deployment ends first."""
    try:
        while watcher.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = command.wait(POLL_S)
                click.echo("the command has ended: stopping", err=True)
                return code
        return watcher.returncode
    finally:
        command.terminate()
        command.wait()


def rendered(path: pathlib.Path, backend: Optional[str], sets: Sequence[str] = ()) -> tuple[Spec, str, tuple[File, ...]]:
    """The topology in a file with the values `sets`, the backend chosen, and every file of its run folder.

    BadInput after every complaint was printed.
    """
    from disagg_launch import render, weights

    topology, plan = planned(path, sets)
    if complain(topology, plan):
        raise BadInput(f"{path}: the errors above stop it; `disagg-launch lint --explain RULE` tells more")
    chosen = backend or ("slurm" if "slurm" in topology.model_fields_set else "local")
    # this interpreter has the package; nodes of a cluster are promised only a python3
    python = "python3" if chosen == "slurm" else sys.executable
    return topology, chosen, render.render(topology, plan, chosen, python, weights.on_disk)


def show(files: Iterable[File]) -> None:
    """Print every text that would be written."""
    for one in files:
        if isinstance(one.text, str):
            click.echo(f"==> {one.path} <==\n{one.text}")


def written(
    topology: Spec, files: tuple[File, ...], run: Optional[pathlib.Path], runs: pathlib.Path = RUNS, begins: bool = False
) -> pathlib.Path:
    """The absolute path of the run folder with these files; without a name, `runs`/NAME or the next that is free.

    `begins`: a gateway is about to begin there, so that it counts as used from now on. BadInput if it cannot be written.
    """
    from disagg_launch import render

    folder = run or runs / topology.name
    try:
        folder = folder.absolute()
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder.parent):
            folder = folder if run else unused(folder)
            render.write(files, folder)
            if begins:
                (folder / "state").mkdir(mode=0o700)
            if run is None and runs == RUNS:
                fresh = LATEST.with_name(f".latest.{os.getpid()}")
                fresh.symlink_to(folder.name)
                fresh.replace(LATEST)
    except OSError as wrong:
        where = f"{wrong.filename}: " if wrong.filename else ""
        raise BadInput(f"{folder}: cannot be written ({where}{wrong.strerror}); name another folder with --run") from None
    return folder


@contextlib.contextmanager
def _alone(folder: pathlib.Path) -> Iterator[None]:
    """One process at a time, so that two that begin at once do not take the same folder; where a file system has no locks, without."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def unused(base: pathlib.Path) -> pathlib.Path:
    """`base`, or base-2, base-3, ...: the first that was not used, and holds no job array."""
    from disagg_launch import render

    folder, number = base, 1
    while render.used(folder) or (folder / "0").exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder
