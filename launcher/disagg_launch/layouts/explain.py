"""Why everything lies where it lies, what is left over, and what each other policy would cost."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Iterator, Sequence

from disagg_launch.layouts.bars import bars
from disagg_launch.place.model import POLICIES, Cluster, Demand, NoRoom, Region
from disagg_launch.place.numbers import counted, ranges
from disagg_launch.place.pieces import cut
from disagg_launch.place.planner import cluster_of, demands_of
from disagg_launch.place.refuse import asked, shape, there_is
from disagg_launch.place.solve import layout
from disagg_launch.plan import Instance, Plan

if TYPE_CHECKING:
    from disagg_launch.spec import Spec


def explanation(spec: Spec, plan: Plan) -> Iterator[str]:
    """The lines of `plan --explain`."""
    demands, cluster = demands_of(spec), cluster_of(spec)
    if not demands:
        yield "there is nothing to place: the servers run already"
        return
    yield f"asked: {asked(demands)}"
    yield f"there is: {there_is(cluster)}"
    yield f"policy {cluster.policy}: {POLICIES[cluster.policy]}"
    yield ""
    neighbours = Counter((one.role, node) for one in plan.instances for node in one.nodes)
    reasons = [
        (one, why(demand, one, cluster, plan) + policys_part(one, cluster, max(neighbours[one.role, node] for node in one.nodes)))
        for demand, one in zip(demands, plan.instances)
    ]
    for (_, reason), group in groupby(reasons, key=lambda pair: (pair[0].role, pair[1])):
        ones = [one for one, _ in group]
        nodes = {node for one in ones for node in one.nodes}
        yield f"{_names(ones)} on {'node' if len(nodes) == 1 else 'nodes'} {ranges(nodes)}: {reason}"
    yield ""
    yield from left_over(plan, cluster)
    yield ""
    yield from other_policies(demands, cluster)


def why(demand: Demand, one: Instance, cluster: Cluster, plan: Plan) -> str:
    """Why an instance takes these nodes, in one sentence."""
    if demand.nodes or demand.gpus:
        pins = [f"{word} {ranges(numbers)}" for word, numbers in (("node", demand.nodes), ("GPU", demand.gpus)) if numbers]
        return f"pinned to {' and '.join(pins)}"
    region = region_of(cluster, plan, one.nodes[0])
    gpus, needed, has = region.gpus, len(cut(0, demand, region.gpus)), len(one.nodes)
    wants = f"{counted(demand.size, 'GPU')} ({shape(demand.tp, demand.pp, demand.cp)})"
    if has > needed:
        return f"{wants} in the gaps of {has} nodes, though {needed} would do: that saves a node"
    if demand.size <= gpus and has == 1:
        return f"{wants} whole on a node of {gpus}"
    if demand.tp > gpus:
        rest = f", its last {demand.tp % gpus} GPUs stay together" if demand.tp % gpus else ""
        return f"a tensor-parallel group of {demand.tp} is larger than a node of {gpus}, so it fills whole nodes{rest}: {has} nodes"
    per_node = gpus // demand.tp
    return f"{wants} need {has} nodes: a node of {gpus} takes {per_node} whole tensor-parallel groups of {demand.tp}"


def policys_part(one: Instance, cluster: Cluster, of_role: int) -> str:
    """What the policy adds to the reason. `of_role`: the most instances of its role on one of its nodes."""
    if cluster.policy == "align_domain":
        return f", inside domain {one.nodes[0] // (cluster.domain_nodes or 1)}"
    if cluster.policy == "separate_roles":
        return f", among {one.role} instances only"
    if cluster.policy == "spread":
        return ", with no other of its role" if of_role == 1 else f", with {of_role - 1} more of its role: there are too few nodes"
    return ""


def region_of(cluster: Cluster, plan: Plan, node: int) -> Region:
    """The kind of node that `node` of the plan is."""
    for group in plan.groups:
        if group.first_node <= node < group.first_node + group.count:
            return Region(group.first_node, group.count, group.gpus_per_node, group.name)
    return cluster.regions()[0]


def left_over(plan: Plan, cluster: Cluster) -> Iterator[str]:
    """The GPUs that no rank has, node by node; nodes with the same GPUs free in one line."""
    free = {bar.node: ranges(g for run in bar.runs if not run.ranks for g in range(run.first, run.first + run.size)) for bar in bars(plan)}
    total = sum(run.size for bar in bars(plan) for run in bar.runs if not run.ranks)
    yield f"left over: {counted(total, 'GPU')}{' (excluded ones among them)' if cluster.excluded_gpus or cluster.excluded_nodes else ''}"
    nodes: dict[str, list[int]] = {}
    for node, gpus in free.items():
        if gpus:
            nodes.setdefault(gpus, []).append(node)
    for gpus, numbers in nodes.items():
        yield f"  node {ranges(numbers)}: GPUs {gpus}"


def other_policies(demands: Sequence[Demand], cluster: Cluster) -> Iterator[str]:
    """What every policy needs: nodes, and instances that lie on more nodes than they need."""
    yield "what each policy would take:"
    for policy in POLICIES:
        mark = "*" if policy == cluster.policy else " "
        if policy == "align_domain" and not cluster.domain_nodes:
            yield f" {mark}{policy:<15} needs cluster.domain_nodes"
            continue
        try:
            made = layout(demands, replace(cluster, policy=policy))
        except NoRoom as reason:
            yield f" {mark}{policy:<15} does not fit: {reason}"
            continue
        shared = Counter(node for seats in made.seats for node in {seat.node for seat in seats})
        crossing = sum(len({seat.node for seat in seats}) > 1 for seats in made.seats)
        sharing = sum(n > 1 for n in shared.values())
        nodes, across = counted(made.node_count, "node"), counted(crossing, "instance")
        yield f" {mark}{policy:<15} {nodes}, {sharing} of them shared by instances, {across} on several nodes"


def _names(instances: Sequence[Instance]) -> str:
    first, last = instances[0], instances[-1]
    return first.name if first is last else f"{first.name}-{last.name}"
