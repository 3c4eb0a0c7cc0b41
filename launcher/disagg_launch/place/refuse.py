"""The sentence for instances that do not fit: the arithmetic, and the nearest thing that does."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Optional, Sequence

from disagg_launch.place.floor import UNLIMITED
from disagg_launch.place.model import Cluster, Demand, NoRoom
from disagg_launch.place.numbers import counted
from disagg_launch.place.solve import layout

MOST_RANKS = 400_000  # ranks that are laid out at most in search of what would fit, so that a refusal takes no longer than a large plan


def refusal(demands: Sequence[Demand], cluster: Cluster, reason: str) -> str:
    """What was asked, what there is, why it does not fit, and what would."""
    return "\n".join(
        (
            f"does not fit: {reason}",
            f"  asked: {asked(demands)}",
            f"  there is: {there_is(cluster)}",
            f"  fits: {'; or '.join(ways_out(demands, cluster)) or 'nothing smaller was found'}",
        )
    )


def asked(demands: Sequence[Demand]) -> str:
    """`2 context x 4 GPUs (tp 4) + 1 generation x 16 GPUs (tp 8 x pp 2) = 24 GPUs`."""
    kinds = Counter((d.role, d.tp, d.pp, d.cp) for d in demands)
    terms = [f"{n} {role} x {counted(tp * pp * cp, 'GPU')} ({shape(tp, pp, cp)})" for (role, tp, pp, cp), n in kinds.items()]
    return f"{' + '.join(terms)} = {counted(sum(d.size for d in demands), 'GPU')}"


def shape(tp: int, pp: int, cp: int) -> str:
    """`tp 8 x pp 2`: the sizes that are not 1, and tp."""
    return " x ".join([f"tp {tp}"] + [f"{word} {n}" for word, n in (("pp", pp), ("cp", cp)) if n > 1])


def there_is(cluster: Cluster) -> str:
    """The nodes and GPUs, and what takes some of them away."""
    terms, total = [], 0
    for region in cluster.regions():
        many = "any number of nodes" if region.count is None else counted(region.count, "node")
        terms.append(f"{many} x {region.gpus} GPUs" + (f" ({region.name})" if region.name else ""))
        total += (region.count or 0) * region.gpus
    closed = sum(region.gpus for node in cluster.excluded_nodes for region in cluster.regions() if region.holds(node))
    lost = closed + sum(len(set(gpus)) for node, gpus in cluster.excluded_gpus.items() if node not in cluster.excluded_nodes)
    text = " + ".join(terms)
    if lost:
        text += f" - {lost} excluded GPUs"
    if all(region.count is not None for region in cluster.regions()):
        text += f" = {total - lost} GPUs"
    notes = [f"policy {cluster.policy}"] if cluster.policy != "pack" else []
    notes += [f"domains of {counted(cluster.domain_nodes or 0, 'node')}"] if cluster.policy == "align_domain" else []
    notes += [f"{counted(cluster.spare_nodes, 'node')} kept free as spare"] if cluster.spare_nodes else []
    return text + (f" ({', '.join(notes)})" if notes else "")


def ways_out(demands: Sequence[Demand], cluster: Cluster) -> list[str]:
    """What would fit: more nodes, the policy that needs none, and the topology with the fewest GPUs taken away."""
    out = []
    if not cluster.groups and cluster.nodes is not None:
        enough = fits(demands, replace(cluster, nodes=None))
        if enough is not None:
            out.append(f"cluster.nodes: {enough + cluster.spare_nodes}")
    if cluster.policy != "pack" and fits(demands, replace(cluster, policy="pack")) is not None:
        out.append("cluster.policy: pack")
    fewer = nearest(demands, cluster)
    if fewer:
        out.append(" with ".join(f"{role}_servers.num_instances: {n}" for role, n in fewer.items()))
    return out


def nearest(demands: Sequence[Demand], cluster: Cluster) -> Optional[dict[str, int]]:
    """The instances of each role that fit, with as many GPUs as possible; None if none is found, or not soon enough."""
    there = sum(UNLIMITED if region.count is None else region.count * region.gpus for region in cluster.regions())
    by_role: dict[str, list[Demand]] = {}
    for demand in demands:
        by_role.setdefault(demand.role, []).append(demand)
    budget = MOST_RANKS
    for needed, counts in smaller_topologies({role: (len(mine), mine[0].size) for role, mine in by_role.items()}):
        if needed > there:
            continue
        if fits([demand for role, n in counts.items() for demand in by_role[role][:n]], cluster) is not None:
            return counts
        budget -= needed
        if budget < 0:
            return None
    return None


def smaller_topologies(roles: dict[str, tuple[int, int]]) -> list[tuple[int, dict[str, int]]]:
    """(GPUs, instances of each role) with the last instances left out, one of each kept; the most GPUs first.

    `roles` has for each role how many instances there are, and the GPUs of one.
    Of many instances not every number is tried, but the largest 40 and every fortieth part.
    """
    options: list[dict[str, int]] = [{}]
    for role, (n, _) in roles.items():
        steps = {max(1, n * i // 40) for i in range(1, 41)}.union(range(max(1, n - 40), n + 1))
        options = [{**chosen, role: step} for chosen in options for step in sorted(steps)]
    return sorted(((sum(n * roles[role][1] for role, n in one.items()), one) for one in options), key=lambda pair: -pair[0])


def fits(demands: Sequence[Demand], cluster: Cluster) -> Optional[int]:
    """The nodes that the demands need, or None if they do not fit."""
    try:
        return layout(demands, cluster).node_count
    except NoRoom:
        return None
