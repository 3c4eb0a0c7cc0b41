"""Ports that an engine needs beside its HTTP port, fixed in the plan instead of probed for on the node.

Probing and then binding is a race as soon as two instances start on one node. Every GPU owns a block of PER_GPU port numbers, and so does
the instance that has the GPU: nobody else on that node counts there. Node numbers take part as well (up to NODES of them), so that a plan
whose nodes are all one machine works too. The blocks lie above the plan's HTTP ports: another deployment on the same nodes has
another `cluster.base_port`, or is raised past these when it starts, and with it ports of every kind.
"""

from __future__ import annotations

from disagg_launch.errors import BadInput
from disagg_launch.launch import Ref
from disagg_launch.plan import Instance, Plan

PER_GPU = 8
NODES = 8
HIGHEST = 65_535
GROWTH = 64


def kv(plan: Plan, instance: Instance) -> Ref:
    """The first of as many side-channel ports as the instance has ranks: some engines open one for each rank."""
    return _port(plan, instance, 0)


def ipc(plan: Plan, instance: Instance) -> Ref:
    """The port between the processes of the instance's first node."""
    return _port(plan, instance, instance.size)


def bootstrap(plan: Plan, instance: Instance) -> Ref:
    """The port on which generation instances learn where this context instance keeps its KV cache."""
    return _port(plan, instance, instance.size + 1)


def rendezvous(plan: Plan, instance: Instance, above: int = 0) -> Ref:
    """The port on the first node at which the instance's nodes meet; engines take up to nine more `above` it, which are free."""
    return _port(plan, instance, instance.size + 2 + above)


def span(plan: Plan) -> tuple[int, int]:
    """The lowest and the highest port that the plan's workers may use, those of instances that it may grow by included."""
    http = [one.port for one in plan.instances]
    return min(http), max(_base(plan) + NODES * plan.gpus_per_node * PER_GPU + GROWTH, *http)


def _port(plan: Plan, instance: Instance, offset: int) -> Ref:
    return Ref("side_port", str(_block(plan, instance) + offset))


def _base(plan: Plan) -> int:
    # a plan that has grown keeps the first plan's blocks: those who run do not learn of others
    found: int = plan.router.get("port_blocks") or 1 + max(plan.router.get("port", 0), *(one.port for one in plan.instances))
    return found


def _block(plan: Plan, instance: Instance) -> int:
    first, base = plan.ranks[instance.first_rank], _base(plan)
    number: int = base + (first.node % NODES * plan.gpus_per_node + first.gpu) * PER_GPU
    if number + instance.size * PER_GPU > HIGHEST:
        raise BadInput(f"cluster.base_port: {instance.name} needs ports up to {number + instance.size * PER_GPU}; give a lower base_port")
    return number
