"""What differs between two plans: which ranks move, which instances and nodes come or go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator

from disagg_launch.plan import Instance, Plan, Rank


@dataclass(frozen=True)
class Move:
    """One rank of an instance that both plans have: its row in the first plan and in the second."""

    before: Rank
    after: Rank


@dataclass(frozen=True)
class Difference:
    """All that differs; every field is empty if the plans lay the same ranks on the same GPUs."""

    gone: tuple[Instance, ...]
    come: tuple[Instance, ...]
    resized: tuple[tuple[Instance, Instance], ...]
    moved: tuple[Move, ...]
    ports: tuple[tuple[Instance, Instance], ...]
    nodes_gone: tuple[int, ...]
    nodes_come: tuple[int, ...]


def compare(before: Plan, after: Plan) -> Difference:
    """The difference. Ranks are the same if instance name and rank in the instance are; their global number may change."""
    old, new = ({one.name: one for one in plan.instances} for plan in (before, after))
    both = [(old[name], new[name]) for name in old if name in new]
    nodes = [{node for one in plan.instances for node in one.nodes} for plan in (before, after)]
    return Difference(
        gone=tuple(one for name, one in old.items() if name not in new),
        come=tuple(one for name, one in new.items() if name not in old),
        resized=tuple((a, b) for a, b in both if a.size != b.size),
        moved=tuple(_moves(before, after, both)),
        ports=tuple((a, b) for a, b in both if a.port != b.port),
        nodes_gone=tuple(sorted(nodes[0] - nodes[1])),
        nodes_come=tuple(sorted(nodes[1] - nodes[0])),
    )


def _moves(before: Plan, after: Plan, both: list[tuple[Instance, Instance]]) -> Iterator[Move]:
    for old, new in both:
        for i in range(min(old.size, new.size)):
            a, b = before.ranks[old.first_rank + i], after.ranks[new.first_rank + i]
            if (a.node, a.gpu) != (b.node, b.gpu):
                yield Move(a, b)
