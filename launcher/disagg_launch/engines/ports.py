"""Ports that an engine needs beside its HTTP port, fixed in the plan instead of probed for on the node.

Probing and then binding is a race as soon as two instances start on one node. Every GPU owns a block of PER_GPU port numbers, and so does
the instance that has the GPU: nobody else on that node counts there. Node numbers take part as well (up to NODES of them), so that a plan
whose nodes are all one machine works too. The blocks lie above the plan's HTTP ports: another deployment on the same nodes has
another `cluster.base_port`, and with it other ports of every kind.
"""

from __future__ import annotations

from disagg_launch.errors import BadInput
from disagg_launch.plan import Instance, Plan

PER_GPU = 8
NODES = 8
HIGHEST = 65_535


def kv(plan: Plan, instance: Instance) -> int:
    """The first of as many side-channel ports as the instance has ranks: some engines open one for each rank."""
    return _block(plan, instance)


def ipc(plan: Plan, instance: Instance) -> int:
    """The port between the processes of the instance's first node."""
    return _block(plan, instance) + instance.size


def bootstrap(plan: Plan, instance: Instance) -> int:
    """The port on which generation instances learn where this context instance keeps its KV cache."""
    return _block(plan, instance) + instance.size + 1


def rendezvous(plan: Plan, instance: Instance) -> int:
    """The port on the first node at which the instance's nodes meet; engines take up to nine more above it, which are free."""
    return _block(plan, instance) + instance.size + 2


def _block(plan: Plan, instance: Instance) -> int:
    first = plan.ranks[instance.first_rank]
    # a plan that has grown keeps the first plan's blocks: those who run do not learn of others
    base = plan.router.get("port_blocks") or 1 + max(plan.router.get("port", 0), *(one.port for one in plan.instances))
    number: int = base + (first.node % NODES * plan.gpus_per_node + first.gpu) * PER_GPU
    if number + instance.size * PER_GPU > HIGHEST:
        raise BadInput(f"cluster.base_port: {instance.name} needs ports up to {number + instance.size * PER_GPU}; give a lower base_port")
    return number
