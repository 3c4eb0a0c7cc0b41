"""The sentence for instances that do not fit: the arithmetic, and the nearest thing that does."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Iterator, Optional, Sequence

from disagg_launch.place.model import Cluster, Demand, NoRoom
from disagg_launch.place.solve import layout

PREFERRED = 200  # how many smaller topologies are tried at most


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
    terms = [f"{n} {role} x {tp * pp * cp} GPUs ({shape(tp, pp, cp)})" for (role, tp, pp, cp), n in kinds.items()]
    return f"{' + '.join(terms)} = {sum(d.size for d in demands)} GPUs"


def shape(tp: int, pp: int, cp: int) -> str:
    """`tp 8 x pp 2`: the sizes that are not 1, and tp."""
    return " x ".join([f"tp {tp}"] + [f"{word} {n}" for word, n in (("pp", pp), ("cp", cp)) if n > 1])


def there_is(cluster: Cluster) -> str:
    """The nodes and GPUs, and what takes some of them away."""
    terms, total = [], 0
    for region in cluster.regions():
        many = "any number of nodes" if region.count is None else f"{region.count} node{'' if region.count == 1 else 's'}"
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
    notes += [f"domains of {cluster.domain_nodes} nodes"] if cluster.policy == "align_domain" else []
    notes += [f"{cluster.spare_nodes} spare nodes kept free"] if cluster.spare_nodes else []
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
    fewer = next((counts for counts, smaller in fewer_instances(demands) if fits(smaller, cluster) is not None), None)
    if fewer:
        out.append(" with ".join(f"{role}_servers.num_instances: {n}" for role, n in fewer.items()))
    return out


def fits(demands: Sequence[Demand], cluster: Cluster) -> Optional[int]:
    """The nodes that the demands need, or None if they do not fit."""
    try:
        return layout(demands, cluster).node_count
    except NoRoom:
        return None


def fewer_instances(demands: Sequence[Demand]) -> Iterator[tuple[dict[str, int], list[Demand]]]:
    """Topologies with the last instances of a role left out, at least one of each kept, those with the most GPUs first."""
    by_role: dict[str, list[Demand]] = {}
    for demand in demands:
        by_role.setdefault(demand.role, []).append(demand)
    options: list[dict[str, int]] = [{}]
    for role, mine in by_role.items():
        steps = sorted({max(1, len(mine) * i // 40) for i in range(1, 41)} | set(range(max(1, len(mine) - 40), len(mine) + 1)))
        options = [{**chosen, role: n} for chosen in options for n in steps]
    gpus = lambda counts: sum(n * by_role[role][0].size for role, n in counts.items())  # noqa: E731
    for counts in sorted(options, key=gpus, reverse=True):
        yield counts, [demand for role, n in counts.items() for demand in by_role[role][:n]]
