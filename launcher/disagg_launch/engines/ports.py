"""Ports that an engine needs beside its HTTP port, fixed in the plan instead of probed for on the node.

Probing and then binding is a race as soon as two instances start on one node. All of them are counted from the plan's lowest HTTP port, so
another deployment on the same nodes, which has another `cluster.base_port`, has other ports of every kind.
"""

from __future__ import annotations

from disagg_launch.errors import BadInput
from disagg_launch.plan import Instance, Plan

# Counted by GPU slot: a slot of a node belongs to one instance, so the port of its first rank's slot is nobody else's on that node.
IPC, BOOTSTRAP, RENDEZVOUS = 1000, 2000, 3000
# Counted by rank: an engine may open one port for each of its ranks, on whichever node that is.
KV = 10_000
# SGLang takes a handful of consecutive ports above its rendezvous port for its own processes.
RENDEZVOUS_STRIDE = 16
HIGHEST = 65_535


def ipc(plan: Plan, instance: Instance) -> int:
    """The port between the processes of the instance's first node."""
    return _counted(plan, instance, IPC + _slot(plan, instance), 1)


def bootstrap(plan: Plan, instance: Instance) -> int:
    """The port on which generation instances learn where this context instance keeps its KV cache."""
    return _counted(plan, instance, BOOTSTRAP + _slot(plan, instance), 1)


def rendezvous(plan: Plan, instance: Instance) -> int:
    """The port on the first node at which the instance's nodes meet; RENDEZVOUS_STRIDE ports from here are the instance's."""
    return _counted(plan, instance, RENDEZVOUS + _slot(plan, instance) * RENDEZVOUS_STRIDE, RENDEZVOUS_STRIDE)


def kv(plan: Plan, instance: Instance) -> int:
    """The first of as many side-channel ports as the instance has ranks."""
    return _counted(plan, instance, KV + instance.first_rank, instance.size)


def _slot(plan: Plan, instance: Instance) -> int:
    return plan.ranks[instance.first_rank].gpu


def _counted(plan: Plan, instance: Instance, offset: int, count: int) -> int:
    first = min(one.port for one in plan.instances) + offset
    if first + count - 1 > HIGHEST:
        raise BadInput(f"cluster.base_port: {instance.name} needs port {first + count - 1}, above {HIGHEST}; give a lower base_port")
    return first
