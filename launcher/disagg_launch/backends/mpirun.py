"""One mpirun over all ranks of all instances, each sent to its node by name: nothing is left to an MPI's own idea of a mapping.

What the three builds want was read off MPICH 5.0 (hydra), Open MPI 4.1 and Open MPI 5.0 (PRRTE).
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from disagg_launch import backends, templating
from disagg_launch.errors import BadInput
from disagg_launch.files import RUNNABLE, File
from disagg_launch.launch import Start, Worker
from disagg_launch.plan import Plan, step_of_world
from disagg_launch.runtime.tasks import tasks_of

if TYPE_CHECKING:
    from disagg_launch.spec import Spec

LISTEN, router, gateway = "localhost", backends.same_router, backends.gateway_here

HERE = "localhost"
HOST_FILE = "configs/hosts"


@dataclass(frozen=True)
class Flavor:
    """What one MPI's mpirun wants to hear.

    `launcher`: its row in runtime/launchers.py. `flags`: each output line marked with its rank, more ranks than cores allowed, no
    binding. `hosts`: the flags before the host file's path. `counted`: neighbours in rank share a line `host:count`; otherwise
    a line for each rank. `environ`: for mpirun and ranks.
    """

    launcher: str
    program: str
    flags: tuple[str, ...]
    hosts: tuple[str, ...]
    counted: bool
    environ: tuple[tuple[str, str], ...] = ()


FLAVORS = {
    "mpich": Flavor("hydra", "mpiexec", ("-prepend-rank",), ("-f",), counted=True),
    "openmpi": Flavor(
        "openmpi",
        "mpirun",
        ("--tag-output", "--oversubscribe", "--bind-to", "none"),
        ("--map-by", "seq", "--hostfile"),
        counted=False,
        environ=(
            ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
            ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
            # ranks that wait must not burn a core that others need
            ("OMPI_MCA_mpi_yield_when_idle", "1"),
            # Open MPI 5 refuses more ranks than cores in a multi-node allocation unless binding is off here as well
            ("PRTE_MCA_hwloc_default_binding_policy", "none"),
        ),
    ),
}


def render(spec: Spec, plan: Plan, workers: tuple[Worker, ...], python: str) -> tuple[tuple[Start, ...], tuple[File, ...]]:
    """One start for the whole plan, its script and its host file. BadInput when mpi.hosts has fewer hosts than the plan has nodes."""
    if not plan.instances:
        return (), ()
    hosts = spec.mpi.hosts or (HERE,) * plan.node_count
    if len(hosts) < plan.node_count:
        raise BadInput(f"mpi.hosts: {len(hosts)} hosts found, {plan.node_count} needed, one for each node of the plan")
    step, flavor = step_of_world(plan), FLAVORS[spec.mpi.flavor]
    script = f"steps/{step.name}.sh"
    start = Start(step.name, step.first_rank, step.size, step.instances, ("bash", script), launcher=flavor.launcher)
    tasks = tasks_of(plan, start, workers)
    argv = command(spec, python, step.name, plan.digest, len(tasks), HOST_FILE)
    text = templating.render("mpirun/step.sh.j2", step=step, digest=plan.digest, environ=flavor.environ, command=argv)
    host_file = File(HOST_FILE, host_lines([hosts[t.row.node] for t in tasks], flavor.counted))
    return (start,), (File(script, text, RUNNABLE), host_file)


def command(spec: Spec, python: str, step: str, digest: str, count: int, host_file: str = "") -> list[str]:
    """The mpirun that starts `count` tasks of a step; without a host file, on this machine."""
    flavor = FLAVORS[spec.mpi.flavor]
    where = [*flavor.hosts, host_file] if host_file else []
    rank = [python, "runtime.pyz", "rank", "--launcher", flavor.launcher, "--step", step, "--digest", digest]
    return [_program(spec, python), *flavor.flags, *where, "-n", str(count), *spec.mpi.args, *rank]


def host_lines(hosts: list[str], counted: bool) -> str:
    """The host file, in rank order: a line for each run of neighbours on one host, or one for each rank."""
    if not counted:
        return "".join(f"{host}\n" for host in hosts)
    return "".join(f"{host}:{len(list(run))}\n" for host, run in itertools.groupby(hosts))


def _program(spec: Spec, python: str) -> str:
    """The spec's mpirun; else its flavor's by name, for MPICH the one that pip puts beside the interpreter."""
    if spec.mpi.command:
        return spec.mpi.command
    name = FLAVORS[spec.mpi.flavor].program
    folder = os.path.dirname(python)
    return os.path.join(folder, name) if folder and spec.mpi.flavor == "mpich" else name
