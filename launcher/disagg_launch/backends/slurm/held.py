"""Which ports a run takes care of by itself, because its topology file gives none: it holds them on its hosts as long as it lives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from disagg_launch.backends.slurm import header
from disagg_launch.engines import ports as engine_ports
from disagg_launch.launch import Ports

if TYPE_CHECKING:
    from disagg_launch.plan import Plan
    from disagg_launch.spec import Spec


def ports(spec: Spec, plan: Plan) -> Ports:
    """Those that the topology file does not give; each part of the job has a script that holds them on its hosts."""
    # the port in a front door's address that workers were told is given, too
    fixed = spec.disagg_cluster is not None and spec.disagg_cluster.cluster_uri.startswith("http")
    workers = "base_port" not in spec.cluster.model_fields_set and bool(plan.instances)
    router = "port" not in spec.model_fields_set and not fixed and spec.router.name != "none"
    if not (workers or router):
        return Ports()
    low, high = engine_ports.span(plan) if workers else (spec.port, spec.port)
    # some front doors have a second port just below
    first, last = (min(low, spec.port - 1), max(high, spec.port)) if router else (low, high)
    holds = tuple(("bash", path(number)) for number in range(len(header.components(spec, plan))))
    return Ports(holds, workers, router, first, last)


def path(part: int) -> str:
    """The script that holds them on the hosts of one part of the job."""
    return f"steps/ports{part or ''}.sh"
