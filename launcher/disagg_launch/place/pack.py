"""The fewest nodes: pieces are laid whole where they fit best; only if that saves a node, an instance is split between its teams.

A fill lays whole pieces on the fullest node that takes them (best fit), then splits those that found no place over the largest gaps.
The number of nodes is searched between the sum of GPUs and what the whole pieces need. Two orders are tried, and the better is kept:
large pieces first leaves few pieces to split, large teams first leaves those for last that can be split finely.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple, Optional, Sequence

from disagg_launch.place.floor import UNLIMITED, Floor
from disagg_launch.place.model import Piece, Put

Ground = Callable[[int], Floor]  # the most fresh nodes -> an empty floor
Order = Callable[[Piece], Any]
ORDERS: tuple[Order, ...] = (lambda p: (-p.size, len(p.teams)), lambda p: (-len(p.teams[0]), -p.size))


class Fill(NamedTuple):
    """One way to lay pieces. Less is better: `opened` fresh nodes in use, then `parts`, which are nodes counted for each instance."""

    opened: int
    parts: int
    puts: list[Put]


def fewest_nodes(pieces: Sequence[Piece], ground: Ground, most: int = UNLIMITED) -> Optional[list[Put]]:
    """The pieces on the fewest nodes found, or None if they do not fit on `most` fresh ones."""
    best = better_fill(pieces, ground, most)
    if best is None or all(len(piece.teams) == 1 for piece in pieces):
        return best and best.puts
    floor = ground(0)
    low = max(0, -(-(sum(piece.size for piece in pieces) - floor.free()) // floor.gpus))
    middle = low  # the lower bound is met nearly always, so it is tried first; then the interval is halved
    while low < best.opened:
        tried = better_fill(pieces, ground, middle)
        best, low = (tried, low) if tried else (best, middle + 1)
        middle = (low + best.opened) // 2
    return best.puts


def better_fill(pieces: Sequence[Piece], ground: Ground, most: int) -> Optional[Fill]:
    """The best fill of at most `most` fresh nodes, or None if no order fits."""
    fills = (fill(sorted(pieces, key=order), ground(most)) for order in ORDERS)
    return min((f for f in fills if f), key=lambda f: f[:2], default=None)


def fill(pieces: Sequence[Piece], floor: Floor) -> Optional[Fill]:
    """The pieces, in this order, on a floor, or None if they do not fit."""
    puts, late = [], []
    for piece in pieces:
        shelf = floor.fit(piece.size)
        if shelf is None:
            late.append(piece)
        else:
            puts.append(Put(piece, floor.take(shelf, piece.size)))
    for piece in late:
        parts = split(piece, floor)
        if parts is None:
            return None
        puts += parts
    return Fill(floor.opened, len(puts), puts)


def split(piece: Piece, floor: Floor) -> Optional[list[Put]]:
    """A piece that fits nowhere whole, on the nodes with the largest gaps, cut between teams; None if a team fits nowhere."""
    parts, teams = [], piece.teams
    while teams:
        shelf = floor.emptiest()
        count = min(len(teams), shelf // len(teams[0]))
        if not count:
            return None
        part = Piece(piece.owner, teams[:count])
        parts.append(Put(part, floor.take(shelf, part.size)))
        teams = teams[count:]
    return parts
