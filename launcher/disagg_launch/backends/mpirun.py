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
from disagg_launch.runtime import binding as bindings
from disagg_launch.runtime.names import GATEWAY
from disagg_launch.runtime.tasks import tasks_of

if TYPE_CHECKING:
    from disagg_launch.spec import Spec

LISTEN, router, ports, gateway = "localhost", backends.router_here, backends.ports_as_planned, backends.gateway_here

HERE = "localhost"
HOST_FILE = "configs/hosts"


@dataclass(frozen=True)
class Flavor:
    """What one MPI's mpirun wants to hear.

    `launcher`: its row in runtime/launchers.py. `flags`: each output line marked with its rank, more ranks than cores allowed, no
    binding. `line`: neighbours in rank on one host, as a line of the host file. `hosts`: the flags before that file's path.
    `sequence`: those flags when several hosts take turns, for which this MPI wants a line for each rank. `environ`: for all of them.
    `forward`: takes the gateway's address along to other hosts, where that does not happen by itself.
    """

    launcher: str
    program: str
    flags: tuple[str, ...]
    line: str
    hosts: tuple[str, ...]
    sequence: tuple[str, ...] = ()
    environ: tuple[tuple[str, str], ...] = ()
    forward: tuple[str, ...] = ()


FLAVORS = {
    "mpich": Flavor("hydra", "mpiexec", ("-prepend-rank",), "{host}:{count}", ("-f",)),
    "openmpi": Flavor(
        "openmpi",
        "mpirun",
        ("--tag-output", "--oversubscribe", "--bind-to", "none"),
        "{host} slots={count}",
        ("--map-by", "slot", "--hostfile"),
        # Open MPI puts the host it starts on first, wherever the file has it; only this mapper keeps to the file. It wants real host
        # names: it does not know `localhost`.
        sequence=("--map-by", "seq", "--hostfile"),
        environ=(
            # mpi4py takes the MPICH wheel of its own environment otherwise; an `env` of the spec may name another file
            ("MPI4PY_LIBMPI", "libmpi.so.40"),
            ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
            ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
            # ranks that wait must not burn a core that others need
            ("OMPI_MCA_mpi_yield_when_idle", "1"),
            # Open MPI 5 refuses more ranks than cores in a multi-node allocation unless binding is off here as well
            ("PRTE_MCA_hwloc_default_binding_policy", "none"),
        ),
        forward=("-x", GATEWAY),
    ),
}


def render(spec: Spec, plan: Plan, workers: tuple[Worker, ...], python: str) -> tuple[tuple[Start, ...], tuple[File, ...]]:
    """One start for the whole plan, its script, its host file and, with mpi.hosts, the binding.

    BadInput when mpi.hosts has fewer hosts than the plan has nodes.
    """
    if not plan.instances:
        return (), ()
    hosts = spec.mpi.hosts or (HERE,) * plan.node_count
    if len(hosts) < plan.node_count:
        text = f"found {len(hosts)} hosts; needed: {plan.node_count}, one for each node of the plan"
        raise BadInput(str(spec.source.complaint(("mpi", "hosts"), text, key=True)))
    backends.check_apart(spec, plan, workers, hosts)
    step, flavor = step_of_world(plan), FLAVORS[spec.mpi.flavor]
    script = f"steps/{step.name}.sh"
    start = Start(step.name, step.first_rank, step.size, step.instances, ("bash", script), launcher=flavor.launcher)
    on_hosts = [hosts[t.row.node] for t in tasks_of(plan, start, workers)]
    program, *words = command(spec, python, step.name, plan.digest, on_hosts)
    argv = [program, *(flavor.forward if len(set(on_hosts)) > 1 else ()), *words]
    text = templating.render("mpirun/step.sh.j2", step=step, digest=plan.digest, environ=flavor.environ, command=argv)
    files: tuple[File, ...] = (File(script, text, RUNNABLE), File(HOST_FILE, host_lines(flavor, on_hosts)))
    if spec.mpi.hosts:
        files += (File("binding.json", bindings.to_json(bindings.Binding(hosts, hosts))),)
    return (start,), files


def command(spec: Spec, python: str, step: str, digest: str, hosts: list[str], host_file: str = HOST_FILE) -> list[str]:
    """The mpirun that starts one task of a step on each of `hosts`, as `host_file` tells it."""
    flavor = FLAVORS[spec.mpi.flavor]
    where = [*(flavor.sequence if _takes_turns(flavor, hosts) else flavor.hosts), host_file]
    rank = [python, "runtime.pyz", "rank", "--launcher", flavor.launcher, "--step", step, "--digest", digest]
    return [_program(spec, python), *flavor.flags, *where, "-n", str(len(hosts)), *spec.mpi.args, *rank]


def host_lines(flavor: Flavor, hosts: list[str]) -> str:
    """The host file for ranks on `hosts`, in rank order."""
    if _takes_turns(flavor, hosts):
        return "".join(f"{host}\n" for host in hosts)
    runs = [(host, len(list(run))) for host, run in itertools.groupby(hosts)]
    return "".join(flavor.line.format(host=host, count=count) + "\n" for host, count in runs)


def _takes_turns(flavor: Flavor, hosts: list[str]) -> bool:
    return bool(flavor.sequence) and len(set(hosts)) > 1


def _program(spec: Spec, python: str) -> str:
    """The spec's mpirun; else its flavor's by name, for MPICH the one that pip puts beside the interpreter."""
    if spec.mpi.command:
        return spec.mpi.command
    name = FLAVORS[spec.mpi.flavor].program
    folder = os.path.dirname(python)
    return os.path.join(folder, name) if folder and spec.mpi.flavor == "mpich" else name
