"""What a picture shows: for each node the runs of GPUs that belong to one instance, and alike nodes taken together."""

from __future__ import annotations

from itertools import groupby
from typing import NamedTuple

from disagg_launch.place.numbers import ranges
from disagg_launch.plan import Plan, Rank


class Run(NamedTuple):
    """GPUs first .. first+size-1 of a node; `ranks` are those of one instance (in order of GPU), or none if the GPUs are free."""

    first: int
    size: int
    ranks: tuple[Rank, ...]

    @property
    def instance(self) -> str:
        """Whose GPUs these are; "" if they are free."""
        return self.ranks[0].instance if self.ranks else ""

    def coordinates(self) -> str:
        """`tp0-3 pp1`: which parts of the instance lie here."""
        return f"tp{ranges(r.tp_rank for r in self.ranks)} pp{ranges(r.pp_rank for r in self.ranks)}" if self.ranks else ""


class Bar(NamedTuple):
    """One line of a picture: node `node` and what lies on it."""

    node: int
    gpus: int
    runs: tuple[Run, ...]


def gpus_of(plan: Plan) -> list[int]:
    """How many GPUs each node has, by node number."""
    out = [plan.gpus_per_node] * plan.node_count
    for group in plan.groups:
        out[group.first_node : group.first_node + group.count] = [group.gpus_per_node] * group.count
    return out


def bars(plan: Plan) -> list[Bar]:
    """A bar for every node of the plan, in order."""
    on_node: list[dict[int, Rank]] = [{} for _ in range(plan.node_count)]
    for rank in plan.ranks:
        on_node[rank.node][rank.gpu] = rank
    return [Bar(node, gpus, _runs(on_node[node], gpus)) for node, gpus in enumerate(gpus_of(plan))]


def _runs(ranks: dict[int, Rank], gpus: int) -> tuple[Run, ...]:
    runs, first = [], 0
    for _, group in groupby(range(gpus), key=lambda gpu: ranks[gpu].instance if gpu in ranks else ""):
        slots = list(group)
        runs.append(Run(first, len(slots), tuple(ranks[gpu] for gpu in slots if gpu in ranks)))
        first += len(slots)
    return tuple(runs)


def alike(every: list[Bar]) -> list[list[Bar]]:
    """The bars in order, neighbours that show the same instances on the same GPUs together."""
    return [list(group) for _, group in groupby(every, key=lambda bar: [(run.first, run.size, run.instance) for run in bar.runs])]
