"""The plain data of placement: what is asked for, what there is, and where everything lies. No file, no machine, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Iterator, Mapping, NamedTuple, Optional

POLICIES = {
    "pack": "the fewest nodes; roles may share a node. Use it unless you have a reason not to.",
    "separate_roles": "no node has both roles. Use it when bursts of prompts must not disturb generation.",
    "spread": "a role's instances on different nodes and domains. Use it so that one lost node takes few instances with it.",
    "align_domain": "each instance inside one domain of `domain_nodes` nodes. Use it for NVLink domains (NVL72: 18) and Slurm segments.",
}


@dataclass(frozen=True)
class Demand:
    """One instance that wants GPUs: pp x cp teams of tp ranks. A team is a tensor-parallel group; instance ranks are pp-major, tp fastest.

    `nodes` and `gpus` are pins: exactly these nodes in this order, and these GPU numbers on each of them.
    """

    name: str
    role: str
    tp: int
    pp: int = 1
    cp: int = 1
    nodes: tuple[int, ...] = ()
    gpus: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """GPUs, which is ranks."""
        return self.tp * self.pp * self.cp


@dataclass(frozen=True)
class Region:
    """Like nodes `first`, `first`+1, ...: `count` of them, or as many as are needed if None. An instance never crosses regions.

    `roles` says which roles may lie here; empty: all.
    """

    first: int
    count: Optional[int]
    gpus: int
    name: str = ""
    roles: tuple[str, ...] = ()

    def holds(self, node: int) -> bool:
        """Whether `node` is one of these."""
        return node >= self.first and (self.count is None or node < self.first + self.count)

    def numbers(self) -> Iterator[int]:
        """The node numbers, rising."""
        node = self.first
        while self.holds(node):
            yield node
            node += 1


@dataclass(frozen=True)
class Cluster:
    """The nodes there are. `nodes` None: as many as are needed; `groups` (in order, numbered on) replace `nodes` and `gpus_per_node`.

    `excluded_nodes` and `excluded_gpus` (node -> GPU numbers) get nothing; `spare_nodes` of the given nodes are kept free.
    """

    gpus_per_node: int
    nodes: Optional[int] = None
    policy: str = "pack"
    domain_nodes: Optional[int] = None
    spare_nodes: int = 0
    excluded_nodes: frozenset[int] = frozenset()
    excluded_gpus: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    groups: tuple[Region, ...] = ()

    def regions(self) -> tuple[Region, ...]:
        """The groups of like nodes; one if there are no groups. Spare nodes are the last ones and are left out."""
        if not self.groups:
            return (Region(0, None if self.nodes is None else max(0, self.nodes - self.spare_nodes), self.gpus_per_node),)
        last = self.groups[-1]
        return (*self.groups[:-1], Region(last.first, max(0, (last.count or 0) - self.spare_nodes), last.gpus, last.name, last.roles))


class Piece(NamedTuple):
    """What one instance (number `owner`) puts on one node: whole teams, or parts of teams larger than a node, as instance ranks."""

    owner: int
    teams: tuple[range, ...]

    @property
    def size(self) -> int:
        """GPUs. All teams of a piece are equally large."""
        return len(self.teams) * len(self.teams[0])


class Put(NamedTuple):
    """A piece on its node; `gpus` if it is pinned to these slots."""

    piece: Piece
    node: int
    gpus: tuple[int, ...] = ()


class Seat(NamedTuple):
    """One GPU: the slot number `gpu` on node `node`."""

    node: int
    gpu: int


@dataclass(frozen=True)
class Layout:
    """Where everything lies: for each demand its seats in order of instance rank. `regions` have the node counts that are needed."""

    seats: tuple[tuple[Seat, ...], ...]
    node_count: int
    regions: tuple[Region, ...]


class NoRoom(Exception):
    """The demands do not fit; str() is the reason in one sentence."""
