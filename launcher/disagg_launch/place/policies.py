"""The placement policies: each lays the instances that are not pinned. What each is for stands in model.POLICIES."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection
from heapq import heapify, heappop, heappush
from itertools import groupby, islice
from typing import Callable, Iterable, Iterator, Optional, Sequence

from disagg_launch.place.floor import UNLIMITED
from disagg_launch.place.model import Cluster, Demand, NoRoom, Piece, Put, Region
from disagg_launch.place.pack import fewest_nodes
from disagg_launch.place.pieces import cut
from disagg_launch.place.yard import Yard, in_order

Wanted = tuple[int, Demand]  # (number of the instance, the instance)
Arrange = Callable[[list[Wanted], Region, list[Put]], list[Put]]


def pack(todo: list[Wanted], cluster: Cluster, yard: Yard) -> None:
    """The fewest nodes, whatever the role."""
    lay(todo, _large_first(cluster), yard)


def separate_roles(todo: list[Wanted], cluster: Cluster, yard: Yard) -> None:
    """The fewest nodes for one role, then for the next on other nodes."""
    for role in dict.fromkeys(demand.role for _, demand in todo):
        others = {put.node for put in yard.puts if yard.roles[put.piece.owner] != role}
        lay([w for w in todo if w[1].role == role], _large_first(cluster), yard, others)


def align_domain(todo: list[Wanted], cluster: Cluster, yard: Yard) -> None:
    """Each instance inside one domain: the domains are filled one after the other."""
    nodes = cluster.domain_nodes or 1
    for _, demand in todo:
        needed = min(len(cut(0, demand, region.gpus)) for region in cluster.regions())
        if needed > nodes:
            raise NoRoom(f"{demand.name} needs {needed} nodes, and a domain has {nodes}")
    lay(todo, _domains(cluster, nodes, len(todo), yard), yard)


def spread(todo: list[Wanted], cluster: Cluster, yard: Yard) -> None:
    """As few instances of a role on a node as possible; where that leaves no room for all, the fewest nodes."""

    def evenly(wanted: list[Wanted], region: Region, packed: list[Put]) -> list[Put]:
        pieces = [piece for owner, demand in wanted for piece in cut(owner, demand, region.gpus)]
        used = [n for n in sorted(yard.used - yard.closed) if region.holds(n)]
        fresh = (n for n in region.numbers() if n not in yard.closed and n not in yard.used)
        if region.count is None:
            return scatter(pieces, used + list(islice(fresh, len(pieces))), region, yard) or packed
        return scatter(pieces, _by_domain([*used, *fresh], cluster.domain_nodes), region, yard) or packed

    lay(todo, _large_first(cluster), yard, arrange=evenly)


POLICY: dict[str, Callable[[list[Wanted], Cluster, Yard], None]] = {
    "pack": pack,
    "separate_roles": separate_roles,
    "spread": spread,
    "align_domain": align_domain,
}


def lay(todo: list[Wanted], regions: Iterable[Region], yard: Yard, closed: Collection[int] = (), arrange: Optional[Arrange] = None) -> None:
    """Lay all of `todo`, as many as fit in each region in turn; NoRoom if some are left over."""
    queues = [deque(group) for _, group in groupby(sorted(todo, key=_by_size), key=_by_size)]
    for region in regions:
        if not any(queues):
            return
        here = [queue for queue in queues if queue and (not region.roles or queue[0][1].role in region.roles)]
        counts, puts = most_that_fit(here, region, yard, closed)
        chosen = [queue.popleft() for queue, n in zip(here, counts) for _ in range(n)]
        yard.lay(in_order(arrange(chosen, region, puts) if arrange and chosen else puts, yard))
    left = sorted(wanted for queue in queues for wanted in queue)
    if left:
        raise NoRoom(f"no room for {', '.join(demand.name for _, demand in left[:4])}{', ...' if len(left) > 4 else ''}")


def most_that_fit(queues: Sequence[deque[Wanted]], region: Region, yard: Yard, closed: Collection[int]) -> tuple[list[int], list[Put]]:
    """How many instances of each queue (all alike) the region holds, those of the first queue first, and where their pieces go."""
    capacity = UNLIMITED if region.count is None else region.gpus * region.count

    def attempt(counts: Sequence[int]) -> Optional[list[Put]]:
        chosen = (wanted for queue, n in zip(queues, counts) for wanted in islice(queue, n))
        pieces = [piece for owner, demand in chosen for piece in cut(owner, demand, region.gpus)]
        return fewest_nodes(pieces, lambda most: yard.floor(region, most, closed), UNLIMITED)

    counts = [len(queue) for queue in queues]
    if sum(n * queue[0][1].size for queue, n in zip(queues, counts)) <= capacity and (puts := attempt(counts)) is not None:
        return counts, puts
    best: list[Put] = []
    counts = [0] * len(queues)
    for i, queue in enumerate(queues):
        low, high = 0, min(len(queue), capacity // queue[0][1].size)
        middle = high  # all of them, if that is possible; then the interval is halved
        while low < high:
            tried = attempt([*counts[:i], middle])
            low, high, best = (middle, high, tried) if tried is not None else (low, middle - 1, best)
            middle = (low + high + 1) // 2
        counts[i] = low
    return counts, best


def scatter(pieces: Sequence[Piece], numbers: Sequence[int], region: Region, yard: Yard) -> Optional[list[Put]]:
    """Each piece, large ones first, on the node with the fewest pieces of its role; None if that leaves no room for one."""
    free = {node: region.gpus - yard.taken[node] for node in numbers}
    load: Counter[tuple[str, int]] = Counter((yard.roles[put.piece.owner], put.node) for put in yard.puts)
    in_use = set(yard.used)
    puts = []
    kind = lambda piece: (-piece.size, yard.roles[piece.owner])  # noqa: E731
    for (_, role), group in groupby(sorted(pieces, key=kind), key=kind):
        heap = [(load[role, node], node not in in_use, place, node) for place, node in enumerate(numbers)]
        heapify(heap)
        for piece in group:
            # a node that is too full for this piece is too full for the rest of the group
            while heap and free[heap[0][3]] < piece.size:
                heappop(heap)
            if not heap:
                return None
            *_, place, node = heappop(heap)
            free[node] -= piece.size
            load[role, node] += 1
            in_use.add(node)
            heappush(heap, (load[role, node], False, place, node))
            puts.append(Put(piece, node))
    return puts


def _large_first(cluster: Cluster) -> list[Region]:
    return sorted(cluster.regions(), key=lambda region: -region.gpus)


def _domains(cluster: Cluster, nodes: int, instances: int, yard: Yard) -> Iterator[Region]:
    """The domains, region by region. An unlimited region has one for each instance and one more for each node with a hole in it."""
    for region in _large_first(cluster):
        total = region.count if region.count is not None else nodes * (instances + len(yard.closed) + len(yard.taken))
        for start in range(0, total, nodes):
            yield Region(region.first + start, min(nodes, total - start), region.gpus, region.name, region.roles)


def _by_domain(numbers: Sequence[int], domain_nodes: Optional[int]) -> list[int]:
    """Node numbers with the first node of each domain first, then the second of each, so that taking them in order spreads over domains."""
    return sorted(numbers, key=lambda node: (node % domain_nodes, node)) if domain_nodes else list(numbers)


def _by_size(wanted: Wanted) -> tuple[int, int, str]:
    demand = wanted[1]
    return -demand.tp, -demand.size, demand.role
