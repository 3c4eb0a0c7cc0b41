"""Which host a node of the plan is bound to after its host was lost, and which hosts nobody needs. Pure."""

from __future__ import annotations

from typing import Collection, Iterable

from disagg_launch.errors import BackendRefused
from disagg_launch.plan import Plan
from disagg_launch.runtime.binding import Binding


def rebound(plan: Plan, binding: Binding, nodes: Iterable[int], lost: Collection[str], resting: Collection[str] = ()) -> Binding:
    """The binding with those of `nodes` whose host is lost moved to spare hosts, the first that is not lost first; else the same.

    A host is spare when only instances that are `resting`, or none, have it. A lost host takes its spare's place in the list, so that it
    can be a spare itself once it is back. BackendRefused without a spare.
    """
    hosts, addresses = list(binding.hosts), list(binding.addresses)
    used = {0, *nodes, *in_use(plan, resting)}
    for node in nodes:
        if hosts[node] not in lost:
            continue
        spare = next((n for n in range(len(hosts)) if n not in used and hosts[n] not in lost), None)
        if spare is None:
            raise BackendRefused(f"{hosts[node]} is lost and no spare node is left: ask for more with cluster.spare_nodes")
        for names in (hosts, addresses):
            names[node], names[spare] = names[spare], names[node]
        used.add(spare)
    return Binding(hosts, addresses, binding.side_up, binding.front_up) if tuple(hosts) != binding.hosts else binding


def in_use(plan: Plan, resting: Collection[str]) -> set[int]:
    """The nodes on which somebody runs, or is about to."""
    return {node for one in plan.instances if one.name not in resting for node in one.nodes}


def surplus(plan: Plan, binding: Binding, resting: Collection[str], lost: Collection[str], spares: int) -> list[str]:
    """The hosts that can be given back, the last ones first: nobody runs there, and `spares` others stay for those who lose theirs.

    Never the first two: the gateway is on one, and the other watches it.
    """
    used = in_use(plan, resting)
    idle = [n for n in range(1, len(binding.hosts)) if n not in used and binding.hosts[n] not in lost]
    free = [n for n in idle if n > 1]
    return [binding.hosts[n] for n in reversed(free)][: max(0, len(idle) - spares)]
