"""From a spec to its plan: the demands and the cluster as plain data, their layout, then names, ranks and ports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterator, Sequence

from disagg_launch.errors import DoesNotFit
from disagg_launch.place.model import Cluster, Demand, Layout, NoRoom, Region
from disagg_launch.place.refuse import refusal
from disagg_launch.place.solve import layout
from disagg_launch.plan import CONTEXT, GENERATION, PREFIX, Instance, NodeGroup, Plan, Rank

if TYPE_CHECKING:
    from disagg_launch.spec import Spec

EPHEMERAL = range(32768, 61000)  # the kernel's default for outgoing connections
PORTS = 65536


def place(spec: Spec) -> Plan:
    """The plan of a topology, the same for the same topology. DoesNotFit with the arithmetic and the nearest topology that fits."""
    demands, cluster = demands_of(spec), cluster_of(spec)
    try:
        made = layout(demands, cluster)
    except NoRoom as reason:
        raise DoesNotFit(refusal(demands, cluster, str(reason))) from None
    return assemble(spec.name, demands, made, spec.cluster.base_port, {"hostname": spec.hostname, "port": spec.port, "node": 0})


def demands_of(spec: Spec) -> list[Demand]:
    """The instances, context first; none if the servers run already."""
    out = []
    for role in () if spec.external else (CONTEXT, GENERATION):
        section = spec.section(role)
        for i in range(section.num_instances):
            name = f"{PREFIX[role]}{i}"
            pin = spec.cluster.pins.get(name)
            # replicas inside an instance take GPUs as context-parallel ranks do
            groups = section.context_parallel_size * section.data_parallel_size
            sizes = (section.tensor_parallel_size, section.pipeline_parallel_size, groups)
            out.append(Demand(name, role, *sizes, nodes=pin.nodes if pin else (), gpus=pin.gpus if pin else ()))
    return out


def cluster_of(spec: Spec) -> Cluster:
    """The nodes, as the topology's `cluster` map describes them."""
    given = spec.cluster
    firsts = [sum(group.nodes for group in given.groups[:i]) for i in range(len(given.groups))]
    return Cluster(
        gpus_per_node=given.gpus_per_node,
        nodes=given.nodes,
        policy=given.policy,
        domain_nodes=given.domain_nodes,
        spare_nodes=given.spare_nodes,
        excluded_nodes=frozenset(given.exclude.nodes),
        excluded_gpus={node: tuple(gpus) for node, gpus in given.exclude.gpus.items()},
        groups=tuple(Region(first, g.nodes, g.gpus_per_node, g.name, tuple(g.roles)) for first, g in zip(firsts, given.groups)),
    )


def assemble(name: str, demands: Sequence[Demand], made: Layout, base_port: int, router: dict[str, object]) -> Plan:
    """The sealed plan of a layout. The router's node is there even if no instance is."""
    instances: list[Instance] = []
    ranks: list[Rank] = []
    port_of = ports([seats[0].node for seats in made.seats], base_port, taken=int(str(router.get("port", 0))))
    for demand, seats, port in zip(demands, made.seats, port_of):
        nodes = tuple(dict.fromkeys(seat.node for seat in seats))
        instances.append(Instance(demand.name, demand.role, len(ranks), demand.size, nodes, port))
        for i, (node, gpu) in enumerate(seats):
            stage = i // (demand.tp * demand.cp)
            ranks.append(Rank(len(ranks), demand.name, demand.role, i, i % demand.tp, stage, node, gpu))
    groups = tuple(NodeGroup(r.name, r.first, r.count or 0, r.gpus) for r in made.regions if r.name)
    gpus = max((region.gpus for region in made.regions), default=0)
    return Plan(name, max(1, made.node_count), gpus, tuple(instances), tuple(ranks), dict(router), groups).sealed()


def ports(nodes: Sequence[int], base: int, taken: int) -> list[int]:
    """A port for each instance, given its first node: base, base + 1, ... without the router's; unique per node.

    Numbers end below the ephemeral range; if there are more instances than numbers, they start again on every node.
    """
    end = EPHEMERAL.start if base < EPHEMERAL.start else PORTS
    usable = [port for port in range(base, end) if port != taken]
    if len(nodes) <= len(usable):
        return usable[: len(nodes)]
    on_node: dict[int, Iterator[int]] = {}
    return [next(on_node.setdefault(node, iter(usable))) for node in nodes]
