"""Who gives nodes and starts steps: one module per backend, chosen by name.

A backend module offers, all pure:

- `LISTEN`: what the front door binds when the topology file names no `hostname`;
- `render(spec, plan, workers, python) -> (starts, files)`: one `launch.Start` for each step and the files that start it (steps/*.sh,
  host files, job.sbatch). `python` is the interpreter on the nodes;
- `router(spec, front) -> front`: the front door as this backend starts it;
- `ports(spec, plan) -> ports`: which ports may be bound to other numbers than the plan's, and what holds them on the hosts;
- `gateway(folder, environ) -> argv`: the command that runs a rendered folder here and now.

What a backend does to the outside world (submitting) stands in functions of its own beside it; a dry run is not calling them.

To add a backend: write the module, name it in BACKENDS.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, cast

from disagg_launch.errors import BadInput
from disagg_launch.launch import Ports

if TYPE_CHECKING:
    from disagg_launch.files import File
    from disagg_launch.launch import Router, Start, Worker
    from disagg_launch.plan import Plan
    from disagg_launch.spec import Spec

BACKENDS = ("local", "mpirun", "slurm")


class Backend(Protocol):
    """What a backend module looks like."""

    LISTEN: str

    def render(self, spec: Spec, plan: Plan, workers: tuple[Worker, ...], python: str) -> tuple[tuple[Start, ...], tuple[File, ...]]:
        """How each step is started, and the files that do it."""

    def router(self, spec: Spec, front: Router) -> Router:
        """How the front door is started."""

    def ports(self, spec: Spec, plan: Plan) -> Ports:
        """Which ports may be raised, and what holds them."""

    def gateway(self, folder: str, environ: Mapping[str, str]) -> tuple[str, ...]:
        """The command that runs the folder."""


def load(name: str) -> Backend:
    """The backend module called `name`, one of BACKENDS; KeyError otherwise."""
    if name not in BACKENDS:
        raise KeyError(name)
    return cast(Backend, importlib.import_module(f"disagg_launch.backends.{name}"))


def check_apart(spec: Spec, plan: Plan, workers: tuple[Worker, ...], hosts: Sequence[str]) -> None:
    """BadInput when two nodes of an instance that needs machines of their own are the same one. `hosts`: by node number."""
    for worker in (one for one in workers if one.apart):
        nodes = plan.instance(worker.instance).nodes
        machines = {hosts[node] for node in nodes}
        if len(machines) < len(nodes):
            text = f"{worker.apart}; {worker.instance} has {len(nodes)} nodes on {', '.join(sorted(machines))}: use Slurm, or mpi.hosts"
            raise BadInput(str(spec.source.complaint(("engine",), text, key=True)))


def router_here(spec: Spec, front: Router) -> Router:
    """The front door as a child of the gateway; ours gives up what it has not finished within the grace."""
    return draining(front, int(spec.restart.grace_s)) if spec.router.name == "builtin" else front


def draining(front: Router, drain_s: int) -> Router:
    """Our front door, told how long requests under way may go on when it has to end."""
    return replace(front, argv=(*front.argv, "--drain", str(drain_s)), drain_s=float(drain_s))


def ports_as_planned(spec: Spec, plan: Plan) -> Ports:
    """Every port is the plan's."""
    return Ports()


def gateway_here(folder: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    """A gateway on this machine."""
    return (sys.executable, f"{folder}/runtime.pyz", "gateway", folder)
