"""This machine: one step per instance, each a process, or one small MPI world when its ranks must talk to each other."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from disagg_launch import backends, templating
from disagg_launch.backends import mpirun
from disagg_launch.files import RUNNABLE, File
from disagg_launch.launch import Start, Worker
from disagg_launch.plan import Plan, steps_per_instance
from disagg_launch.runtime.tasks import tasks_of

if TYPE_CHECKING:
    from disagg_launch.spec import Spec

LISTEN, router, ports, gateway = "localhost", backends.router_here, backends.ports_as_planned, backends.gateway_here


def render(spec: Spec, plan: Plan, workers: tuple[Worker, ...], python: str) -> tuple[tuple[Start, ...], tuple[File, ...]]:
    """One start and one script for each instance."""
    backends.check_apart(spec, plan, workers, [mpirun.HERE] * plan.node_count)
    starts, files = [], []
    for step, worker in zip(steps_per_instance(plan), workers):
        script, host_file = f"steps/{step.name}.sh", f"configs/hosts.{step.name}"
        start = Start(step.name, step.first_rank, step.size, step.instances, ("bash", script))
        count = len(tasks_of(plan, start, (worker,)))
        environ: tuple[tuple[str, str], ...] = ()
        if count > 1 and (worker.in_process or worker.world):
            flavor = mpirun.FLAVORS[spec.mpi.flavor]
            start, environ = replace(start, launcher=flavor.launcher), flavor.environ
            here = [mpirun.HERE] * count
            command = mpirun.command(spec, python, step.name, plan.digest, here, host_file)
            files.append(File(host_file, mpirun.host_lines(flavor, here)))
        else:
            begin = ["rank", "--launcher", "local"] if count == 1 else ["spread"]
            command = [python, "runtime.pyz", *begin, "--step", step.name, "--digest", plan.digest]
        text = templating.render("local/step.sh.j2", step=step, digest=plan.digest, environ=environ, command=command)
        starts.append(start)
        files.append(File(script, text, RUNNABLE))
    return tuple(starts), tuple(files)
