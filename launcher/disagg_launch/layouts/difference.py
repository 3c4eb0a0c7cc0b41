"""The difference of two plans as text."""

from __future__ import annotations

from itertools import groupby
from typing import Iterable, Iterator, Sequence

from disagg_launch.place.diff import Difference, Move
from disagg_launch.place.numbers import ranges
from disagg_launch.plan import Instance, Plan, Rank

MOST_LINES = 200


def lines(before: Plan, after: Plan, found: Difference) -> Iterator[str]:
    """One line for each thing that differs, `-` gone, `+` new, `~` changed, and a summary."""
    yield f"plan {before.digest} of {before.name} -> plan {after.digest} of {after.name}"
    if before.digest == after.digest:
        yield "the same plan"
        return
    details = list(_details(found))
    yield from details[:MOST_LINES]
    if len(details) > MOST_LINES:
        yield f"... and {len(details) - MOST_LINES} more lines"
    stay = sum(min(a.size, b.size) for a, b in _pairs(before, after)) - len(found.moved)
    yield (
        f"{len(found.moved)} ranks move, {stay} stay, {_ranks(found.gone)} go, {_ranks(found.come)} come; "
        f"{before.node_count} -> {after.node_count} nodes"
    )


def _details(found: Difference) -> Iterator[str]:
    for mark, instances in (("-", found.gone), ("+", found.come)):
        for one in instances:
            yield f"{mark} {one.name}: {one.size} ranks on {_nodes(one.nodes)}"
    for old, new in found.resized:
        yield f"~ {old.name}: {old.size} -> {new.size} ranks"
    for _, moves in groupby(found.moved, key=_kind):
        yield _moved(list(moves))
    for old, new in found.ports:
        yield f"~ {old.name}: port {old.port} -> {new.port}"
    for mark, numbers in (("-", found.nodes_gone), ("+", found.nodes_come)):
        if numbers:
            yield f"{mark} {_nodes(numbers)}"


def _kind(move: Move) -> tuple[str, int, int]:
    return move.before.instance, move.before.node, move.after.node


def _moved(moves: Sequence[Move]) -> str:
    """`~ gen0 ranks 0-3: node 1 GPUs 0-3 -> node 2 GPUs 4-7`."""
    which = ranges(move.before.instance_rank for move in moves)
    return f"~ {moves[0].before.instance} ranks {which}: {_seats([m.before for m in moves])} -> {_seats([m.after for m in moves])}"


def _seats(ranks: Sequence[Rank]) -> str:
    return f"node {ranks[0].node} GPUs {ranges(rank.gpu for rank in ranks)}"


def _nodes(numbers: Sequence[int]) -> str:
    return f"{'node' if len(numbers) == 1 else 'nodes'} {ranges(numbers)}"


def _ranks(instances: Iterable[Instance]) -> int:
    return sum(one.size for one in instances)


def _pairs(before: Plan, after: Plan) -> Iterator[tuple[Instance, Instance]]:
    new = {one.name: one for one in after.instances}
    return ((one, new[one.name]) for one in before.instances if one.name in new)
