"""How an instance is cut into pieces that each lie on one node."""

from __future__ import annotations

from typing import Sequence

from disagg_launch.place.model import Demand, Piece


def cut(owner: int, demand: Demand, gpus: int) -> list[Piece]:
    """The fewest pieces of an instance on nodes of `gpus` GPUs; at most as many nodes as pieces are needed.

    A team never crosses a node unless it is larger than one; then it fills whole nodes, and its rest stays together. Where
    context parallelism allows it at no cost, pieces end where pipeline stages end.
    """
    teams = [range(start, start + demand.tp) for start in range(0, demand.size, demand.tp)]
    whole, rest = divmod(demand.tp, gpus)
    full = [Piece(owner, (team[i * gpus : (i + 1) * gpus],)) for team in teams for i in range(whole)]
    if not rest:
        return full
    return full + bundle(owner, [team[whole * gpus :] for team in teams], gpus // rest, demand.cp)


def bundle(owner: int, teams: Sequence[range], per_node: int, cp: int = 1) -> list[Piece]:
    """The teams in pieces of at most `per_node`, of whole pipeline stages (`cp` teams) if that takes no more pieces."""
    by_stage = per_node // cp * cp
    if by_stage and -(-len(teams) // by_stage) == -(-len(teams) // per_node):
        per_node = by_stage
    return [Piece(owner, tuple(teams[i : i + per_node])) for i in range(0, len(teams), per_node)]


def share(owner: int, demand: Demand, nodes: int) -> list[Piece]:
    """The teams in `nodes` equal pieces (the first ones one team larger if it does not come out even), for pinned instances."""
    teams = [range(start, start + demand.tp) for start in range(0, demand.size, demand.tp)]
    each, more = divmod(len(teams), nodes)
    ends = [each * i + min(i, more) for i in range(nodes + 1)]
    return [Piece(owner, tuple(teams[a:b])) for a, b in zip(ends, ends[1:]) if b > a]
