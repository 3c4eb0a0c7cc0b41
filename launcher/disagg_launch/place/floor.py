"""Free GPUs per node while instances are being packed: best fit and emptiest node in a few steps, whatever the number of nodes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from heapq import heappop, heappush
from typing import Optional

from disagg_launch.place.model import Region

UNLIMITED = 1 << 60


class Floor:
    """The nodes of one region. Nodes already in use come first; at most `most` fresh ones are opened, lowest number first.

    `taken` says how many GPUs of a node are not free, `used` which nodes are in use, `closed` which must not be used.
    """

    def __init__(self, region: Region, taken: Mapping[int, int], used: Collection[int], closed: Collection[int], most: int) -> None:
        self.gpus, self.most, self.opened, self.taken = region.gpus, most, 0, taken
        self.fresh = (n for n in region.numbers() if n not in closed and n not in used)
        self.shelves: list[list[int]] = [[] for _ in range(region.gpus + 1)]  # by free GPUs: a heap of node numbers
        for node in used:
            if region.holds(node) and node not in closed:
                self._shelve(node)

    def fit(self, size: int) -> Optional[int]:
        """The shelf whose nodes `size` GPUs fill best; a fresh node is opened if none in use will do. None: there is no room."""
        for free in range(size, self.gpus + 1):
            if self.shelves[free]:
                return free
        while (opened := self._open()) is not None:
            if opened >= size:
                return opened
        return None

    def emptiest(self) -> int:
        """The shelf with the most free GPUs; 0 if every node in use is full."""
        return max((free for free, nodes in enumerate(self.shelves) if nodes), default=0)

    def take(self, shelf: int, size: int) -> int:
        """The lowest node of a shelf, with `size` fewer GPUs free from now on."""
        node = heappop(self.shelves[shelf])
        heappush(self.shelves[shelf - size], node)
        return node

    def _open(self) -> Optional[int]:
        node = next(self.fresh, None) if self.opened < self.most else None
        if node is None:
            return None
        self.opened += 1
        return self._shelve(node)

    def _shelve(self, node: int) -> int:
        free = max(0, self.gpus - self.taken.get(node, 0))
        heappush(self.shelves[free], node)
        return free

    def free(self) -> int:
        """GPUs that are free on the nodes in use."""
        return sum(free * len(nodes) for free, nodes in enumerate(self.shelves))
