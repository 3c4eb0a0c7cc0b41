"""Which GPU of its node each rank gets: one run of GPU numbers for an instance where that is possible, powers of two aligned."""

from __future__ import annotations

from collections import defaultdict
from itertools import accumulate
from typing import Iterable, Mapping, Optional, Sequence

from disagg_launch.place.model import Put, Seat

Chunk = tuple[int, list[range]]  # an instance's number, and its teams on one node


def seat(sizes: Sequence[int], puts: Iterable[Put], gpus_of: Mapping[int, int], blocked: Mapping[int, int]) -> tuple[tuple[Seat, ...], ...]:
    """For each instance (of `sizes[i]` ranks) its seats in rank order. `gpus_of`: GPUs of a node. `blocked`: mask of those not free."""
    seats: list[list[Seat]] = [[Seat(-1, -1)] * size for size in sizes]
    on_node: dict[int, dict[int, list[range]]] = defaultdict(lambda: defaultdict(list))
    for put in puts:
        if put.gpus:
            _sit(seats[put.piece.owner], put.piece.teams, put.node, put.gpus)
        else:
            on_node[put.node][put.piece.owner] += put.piece.teams
    for node, owners in on_node.items():
        free = ((1 << gpus_of[node]) - 1) & ~blocked.get(node, 0)
        chunks = [(owner, sorted(teams, key=lambda team: team.start)) for owner, teams in sorted(owners.items())]
        for owner, teams in in_line(chunks):
            gpus = slots(free, teams)
            free &= ~sum(1 << gpu for gpu in gpus)
            _sit(seats[owner], teams, node, gpus)
    return tuple(map(tuple, seats))


def in_line(chunks: list[Chunk]) -> list[Chunk]:
    """The chunks in the order in which they take GPUs: as they are if all come to lie aligned, else by falling alignment.

    Then every start is a sum of larger powers of two, so that on a node without holes all are aligned.
    """
    sizes = [sum(map(len, teams)) for _, teams in chunks]
    if all(start % alignment(size) == 0 for start, size in zip(accumulate(sizes, initial=0), sizes)):
        return chunks
    return [chunk for _, chunk in sorted(zip(sizes, chunks), key=lambda pair: -alignment(pair[0]))]


def alignment(size: int) -> int:
    """The largest power of two that divides `size`."""
    return size & -size


def slots(free: int, teams: Sequence[range]) -> list[int]:
    """GPU numbers for the teams, out of the mask `free`: an aligned run if there is one, else a run, else a run for each team, else any."""
    start = _run(free, sum(map(len, teams)))
    if start is not None:
        return list(range(start, start + sum(map(len, teams))))
    if len(teams) > 1:
        out: list[int] = []
        for team in teams:
            out += slots(free & ~sum(1 << gpu for gpu in out), [team])
        return out
    lowest = (gpu for gpu in range(free.bit_length()) if free >> gpu & 1)
    return [gpu for gpu, _ in zip(lowest, teams[0])]


def _run(free: int, size: int) -> Optional[int]:
    """The first of `size` free GPUs in a row, at a multiple of the alignment of `size` if that can be."""
    wanted = (1 << size) - 1
    for step in (alignment(size), 1):
        for start in range(0, free.bit_length() - size + 1, step):
            if free >> start & wanted == wanted:
                return start
    return None


def _sit(seats: list[Seat], teams: Iterable[range], node: int, gpus: Iterable[int]) -> None:
    for rank, gpu in zip((rank for team in teams for rank in team), gpus):
        seats[rank] = Seat(node, gpu)
