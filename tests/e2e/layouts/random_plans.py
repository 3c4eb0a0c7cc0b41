"""Plans of random topologies: the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterator

from disagg_launch.place import POLICIES, Cluster, Demand, NoRoom, Region, layout
from disagg_launch.place.planner import assemble
from disagg_launch.plan import PREFIX, Plan


def plans(seed: int, count: int, nodes: int = 12, gpus: tuple[int, ...] = (1, 2, 4, 8)) -> Iterator[Plan]:
    """`count` plans on at most `nodes` nodes, with uneven groups, policies, holes and pins among them."""
    dice = random.Random(seed)
    while count:
        demands, cluster = _asked(dice, nodes, dice.choice(gpus), like=len(gpus) == 1)
        try:
            made = layout(demands, cluster)
        except NoRoom:
            continue
        count -= 1
        yield assemble(f"random{count}", demands, made, 8001, {"hostname": "localhost", "port": 8000, "node": 0})


def _asked(dice: random.Random, nodes: int, gpus: int, like: bool) -> tuple[list[Demand], Cluster]:
    demands = []
    for role, prefix in PREFIX.items():
        tp, pp, cp = dice.choice([1, 1, 2, 3, 4, 6, 8]), dice.choice([1, 1, 1, 2, 3]), dice.choice([1, 1, 1, 2])
        demands += [Demand(f"{prefix}{i}", role, tp, pp, cp) for i in range(dice.randint(1, 4))]
    if dice.random() < 0.2:
        first = demands[0]
        demands[0] = Demand(first.name, first.role, first.tp, first.pp, first.cp, nodes=(dice.randrange(nodes),))
    half = nodes // 2
    groups = (Region(0, half, gpus, "a"), Region(half, nodes - half, dice.choice([4, 8]), "b"))
    return demands, Cluster(
        gpus,
        nodes,
        policy=dice.choice(sorted(POLICIES)),
        domain_nodes=dice.randint(2, 6),
        excluded_nodes=frozenset({dice.randrange(nodes)} if dice.random() < 0.2 else ()),
        excluded_gpus={dice.randrange(nodes): (0,)} if dice.random() < 0.2 else {},
        groups=groups if not like and dice.random() < 0.3 else (),
    )
