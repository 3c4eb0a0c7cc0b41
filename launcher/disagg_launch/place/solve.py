"""The layout of demands on a cluster: pinned instances first, the rest by the policy, then GPU numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Sequence

from disagg_launch.place.model import Cluster, Demand, Layout, NoRoom, Region
from disagg_launch.place.policies import POLICY
from disagg_launch.place.seats import seat
from disagg_launch.place.yard import Yard, lay_pinned


def layout(demands: Sequence[Demand], cluster: Cluster) -> Layout:
    """Where every rank of every demand lies. The same arguments give the same layout; NoRoom if they do not fit.

    No GPU is given twice; a tensor-parallel group crosses nodes only if it is larger than one. Then, in this order: few nodes, few
    nodes for each instance, aligned GPU numbers, the policy. `separate_roles`, `spread` and `align_domain` may cost nodes.
    """
    yard = Yard(cluster, demands)
    regions = cluster.regions()
    wanted = list(enumerate(demands))
    for owner, demand in wanted:
        if demand.nodes or demand.gpus:
            lay_pinned(owner, demand, regions, yard)
    POLICY[cluster.policy]([w for w in wanted if not (w[1].nodes or w[1].gpus)], cluster, yard)
    numbered = bool(cluster.excluded_nodes or cluster.excluded_gpus or any(d.nodes or d.gpus for d in demands))
    return _trimmed(demands, yard, regions, numbered)


def _trimmed(demands: Sequence[Demand], yard: Yard, regions: Sequence[Region], numbered: bool) -> Layout:
    """The layout with the node counts that are needed. Groups move up to close gaps unless the file speaks of node numbers."""
    gpus_of: dict[int, int] = {}
    moved: dict[int, int] = {}
    kept: list[Region] = []
    last = max(yard.used, default=-1)
    for region in regions:
        used = [node for node in yard.used if region.holds(node)]
        first = kept[-1].first + (kept[-1].count or 0) if kept else 0
        if numbered:
            first = region.first
            count = max(0, min(last + 1 - first, last + 1 if region.count is None else region.count))
        else:
            count = max(used, default=region.first - 1) + 1 - region.first
        moved.update((node, first + node - region.first) for node in used)
        gpus_of.update((moved[node], region.gpus) for node in used)
        if count:
            kept.append(replace(region, first=first, count=count))
    puts = [put._replace(node=moved[put.node]) for put in yard.puts]
    blocked = {moved[node]: bits for node, bits in yard.blocked.items() if node in moved}
    count = sum(region.count or 0 for region in kept)
    return Layout(seat([d.size for d in demands], puts, gpus_of, blocked), count, tuple(kept))


__all__ = ["NoRoom", "layout"]
