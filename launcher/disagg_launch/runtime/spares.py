"""Which host a node of the plan is bound to after its host was lost. Pure."""

from __future__ import annotations

from typing import Collection, Iterable

from disagg_launch.errors import BackendRefused
from disagg_launch.plan import Plan
from disagg_launch.runtime.binding import Binding


def rebound(plan: Plan, binding: Binding, nodes: Iterable[int], lost: Collection[str]) -> Binding:
    """The binding with those of `nodes` whose host is lost moved to spare hosts, the first that is not lost first; else the same.

    A lost host takes its spare's place in the list, so that it can be a spare itself once it is back. BackendRefused without a spare.
    """
    hosts, addresses = list(binding.hosts), list(binding.addresses)
    for node in nodes:
        if hosts[node] not in lost:
            continue
        spare = next((n for n in range(plan.node_count, len(hosts)) if hosts[n] not in lost), None)
        if spare is None:
            raise BackendRefused(f"{hosts[node]} is lost and no spare node is left: ask for more with cluster.spare_nodes")
        for names in (hosts, addresses):
            names[node], names[spare] = names[spare], names[node]
    return Binding(tuple(hosts), tuple(addresses)) if tuple(hosts) != binding.hosts else binding
