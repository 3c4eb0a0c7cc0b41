"""The state of all nodes while a layout is being made: what is closed, what is taken, and what has been put where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Iterable, Sequence

from disagg_launch.place.floor import Floor
from disagg_launch.place.model import Cluster, Demand, NoRoom, Piece, Put, Region
from disagg_launch.place.pieces import cut, share


class Yard:
    """Starts with the excluded nodes and GPUs; `lay` adds. `blocked` maps a node to a bit mask of slots that are not free to choose.

    `roles` has the role of each instance, by its number.
    """

    def __init__(self, cluster: Cluster, demands: Sequence[Demand]) -> None:
        self.roles = [demand.role for demand in demands]
        self.closed = set(cluster.excluded_nodes)
        self.blocked = {node: mask(gpus) for node, gpus in cluster.excluded_gpus.items()}
        self.taken = Counter({node: bits.bit_count() for node, bits in self.blocked.items()})
        self.puts: list[Put] = []
        self.used: set[int] = set()

    def lay(self, puts: Iterable[Put]) -> None:
        """Put these pieces."""
        for put in puts:
            self.puts.append(put)
            self.used.add(put.node)
            self.taken[put.node] += put.piece.size
            if put.gpus:
                self.blocked[put.node] = self.blocked.get(put.node, 0) | mask(put.gpus)

    def floor(self, region: Region, most: int, closed: Collection[int] = ()) -> Floor:
        """The region's free GPUs as they are now, with `closed` nodes out of reach."""
        used = self.used if region.count is None or region.count > len(self.used) else self.used.intersection(region.numbers())
        return Floor(region, self.taken, used, self.closed.union(closed), most)


def mask(gpus: Iterable[int]) -> int:
    """GPU numbers as a bit mask."""
    return sum(1 << gpu for gpu in set(gpus))


def in_order(puts: list[Put], yard: Yard) -> list[Put]:
    """The same layout with like nodes numbered in the order of instances and ranks, so that an instance's nodes follow each other."""
    puts = sorted(puts, key=lambda put: (put.piece.owner, put.piece.teams[0].start))
    fresh = list(dict.fromkeys(put.node for put in puts if put.node not in yard.taken))
    number = dict(zip(fresh, sorted(fresh)))
    return [put._replace(node=number.get(put.node, put.node)) for put in puts]


def lay_pinned(owner: int, demand: Demand, regions: Sequence[Region], yard: Yard) -> None:
    """Put a pinned instance exactly where it is pinned to; NoRoom says what is in the way."""
    if demand.nodes:
        region = _region_of(demand, regions)
        pieces = _pieces_on(owner, demand, region, len(demand.nodes))
        targets = list(zip(pieces, demand.nodes))
    else:
        region = next((r for r in regions if not r.roles or demand.role in r.roles), regions[0])
        _check_slots(demand, region)
        pieces = cut(owner, demand, len(demand.gpus))
        free = (n for n in region.numbers() if n not in yard.closed and not yard.blocked.get(n, 0) & mask(demand.gpus))
        targets = list(zip(pieces, free))
        if len(targets) < len(pieces):
            raise NoRoom(f"{demand.name} is pinned to GPUs {_listed(demand.gpus)}, which are free on {len(targets)} of {len(pieces)} nodes")
    for piece, node in targets:
        _check_free(demand, piece, node, region, yard)
        yard.lay([Put(piece, node, demand.gpus[: piece.size])])


def _region_of(demand: Demand, regions: Sequence[Region]) -> Region:
    holding = [r for node in demand.nodes for r in regions if r.holds(node)]
    if len(holding) < len(demand.nodes):
        raise NoRoom(f"{demand.name} is pinned to nodes {_listed(demand.nodes)}; the cluster has {_extent(regions)}")
    if any(r != holding[0] for r in holding):
        raise NoRoom(f"{demand.name} is pinned to nodes {_listed(demand.nodes)}, which belong to different groups")
    return holding[0]


def _pieces_on(owner: int, demand: Demand, region: Region, nodes: int) -> list[Piece]:
    if demand.tp <= region.gpus:
        pieces = share(owner, demand, nodes)
        what = f"{demand.pp * demand.cp} tensor-parallel groups of {demand.tp} GPUs"
    else:
        pieces = sorted(cut(owner, demand, region.gpus), key=lambda piece: piece.teams[0].start)
        what = f"tensor-parallel groups of {demand.tp} GPUs, which fill {len(pieces)} nodes of {region.gpus}"
    if len(pieces) != nodes:
        raise NoRoom(f"{demand.name} is pinned to {nodes} nodes, but it has {what}")
    return pieces


def _check_slots(demand: Demand, region: Region) -> None:
    if demand.tp > len(demand.gpus) and len(demand.gpus) < region.gpus:
        raise NoRoom(
            f"{demand.name} is pinned to {len(demand.gpus)} GPUs of a node, but a tensor-parallel group of {demand.tp} must not cross nodes"
        )


def _check_free(demand: Demand, piece: Piece, node: int, region: Region, yard: Yard) -> None:
    where = f"{demand.name} is pinned to node {node}"
    if node in yard.closed:
        raise NoRoom(f"{where}, which is excluded")
    if any(gpu >= region.gpus for gpu in demand.gpus):
        raise NoRoom(f"{where}, GPUs {_listed(demand.gpus)}; that node has GPUs 0-{region.gpus - 1}")
    if demand.gpus and len(demand.gpus) < piece.size:
        raise NoRoom(f"{where}, GPUs {_listed(demand.gpus)}, but needs {piece.size} GPUs there")
    if yard.blocked.get(node, 0) & mask(demand.gpus[: piece.size]):
        raise NoRoom(f"{where}, GPUs {_listed(demand.gpus)}, of which some are excluded or pinned to another instance")
    if region.gpus - yard.taken[node] < piece.size:
        raise NoRoom(f"{where}, where {region.gpus - yard.taken[node]} GPUs are free and {piece.size} are needed")


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


def _extent(regions: Sequence[Region]) -> str:
    last = regions[-1]
    end = None if last.count is None else last.first + last.count - 1
    return "no nodes" if end is not None and end < 0 else f"nodes 0-{'' if end is None else end}"
