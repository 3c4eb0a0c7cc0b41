"""How the ranks of an instance talk: an interface, and its forms for one rank and for threads of one process (`mpi` has the third).

Only a rank's model loop calls `send` .. `gather`. `report` may be called from any thread.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, Optional, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Json = dict[str, Any]


class Comm(Protocol):
    """A group of ranks. `rank` counts from 0, the leader."""

    rank: int
    size: int

    def split(self, colour: int) -> Comm:
        """The group of all ranks that gave the same colour, in the order of their ranks here. Called by every rank."""

    def send(self, value: Any, to: int) -> None:
        """Hand a value to another rank."""

    def receive(self, source: int) -> Any:
        """The next value from a rank. Waits without burning a core."""

    def sum(self, array: Array) -> Array:
        """The sum of every rank's array, equal bit for bit on all of them; the argument may be overwritten."""

    def gather(self, array: Array) -> Optional[list[Array]]:
        """Every rank's array, in rank order, on rank 0; None elsewhere."""

    def report(self, event: Json) -> None:
        """Tell the leader something out of turn, a map of plain JSON values; there it reaches the function given to `listen`."""

    def listen(self, hear: Callable[[Json], None], lost: Callable[[str], None]) -> None:
        """Leader: call `hear` for every report and `lost` with a sentence if a rank is gone. Both are called from other threads."""

    def leave(self) -> None:
        """This rank ends in order: its silence is no alarm."""

    def fail(self, reason: str) -> None:
        """This rank cannot go on: tell the leader's `lost`."""


class Solo:
    """The group of one."""

    rank, size = 0, 1

    def __init__(self) -> None:
        self._hear: Callable[[Json], None] = lambda _: None

    def split(self, colour: int) -> Solo:
        """Itself."""
        return self

    def send(self, value: Any, to: int) -> None:
        """There is nobody to send to."""
        raise AssertionError("a single rank sends to nobody")

    def receive(self, source: int) -> Any:
        """There is nobody to hear from."""
        raise AssertionError("a single rank hears from nobody")

    def sum(self, array: Array) -> Array:
        """The array."""
        return array

    def gather(self, array: Array) -> Optional[list[Array]]:
        """The array alone."""
        return [array]

    def report(self, event: Json) -> None:
        """Straight to the listener."""
        self._hear(event)

    def listen(self, hear: Callable[[Json], None], lost: Callable[[str], None]) -> None:
        """Remember the listener; nobody can be lost."""
        self._hear = hear

    def leave(self) -> None:
        """Nobody listens."""

    def fail(self, reason: str) -> None:
        """Nobody listens."""


class _Shared:
    """What the threads of one group have in common. `family`: this and all groups split off the same world."""

    def __init__(self, size: int, family: list[_Shared]) -> None:
        self.family = family
        family.append(self)
        self.barrier = threading.Barrier(size)
        self.slots: list[Any] = [None] * size
        self.mail: dict[tuple[int, int], queue.SimpleQueue[Any]] = {(a, b): queue.SimpleQueue() for a in range(size) for b in range(size)}
        self.hear: Callable[[Json], None] = lambda _: None
        self.lost: Callable[[str], None] = lambda _: None


class Threads:
    """Ranks that are threads of one process, for tests: the same arithmetic as under MPI, no launcher."""

    def __init__(self, rank: int, size: int, shared: _Shared) -> None:
        self.rank, self.size, self._shared = rank, size, shared

    @staticmethod
    def world(size: int) -> list[Threads]:
        """One communicator for each of `size` threads."""
        shared = _Shared(size, [])
        return [Threads(rank, size, shared) for rank in range(size)]

    def split(self, colour: int) -> Threads:
        """The threads of one colour; the lowest of them makes what they share."""
        colours = self._exchange(colour)
        mates = [rank for rank, other in enumerate(colours) if other == colour]
        shared = self._exchange(_Shared(len(mates), self._shared.family) if mates[0] == self.rank else None)[mates[0]]
        return Threads(mates.index(self.rank), len(mates), shared)

    def send(self, value: Any, to: int) -> None:
        """Put it into the other thread's box."""
        self._shared.mail[self.rank, to].put(value)

    def receive(self, source: int) -> Any:
        """Take it from the box. RuntimeError if the group has fallen apart."""
        box = self._shared.mail[source, self.rank]
        while not self._shared.barrier.broken:
            with contextlib.suppress(queue.Empty):
                return box.get(timeout=0.2)
        raise RuntimeError("another rank failed")

    def sum(self, array: Array) -> Array:
        """Added in rank order, so that every thread has the same bits."""
        if self.size == 1:
            return array
        first, *others = self._exchange(array)
        total: Array = np.array(first)
        for other in others:
            total += other
        return total

    def gather(self, array: Array) -> Optional[list[Array]]:
        """All arrays on rank 0."""
        everything = self._exchange(array)
        return everything if self.rank == 0 else None

    def report(self, event: Json) -> None:
        """Straight to the leader's listener."""
        self._shared.hear(event)

    def listen(self, hear: Callable[[Json], None], lost: Callable[[str], None]) -> None:
        """Leader: remember both."""
        self._shared.hear, self._shared.lost = hear, lost

    def leave(self) -> None:
        """Nobody is alarmed by a thread's silence."""

    def fail(self, reason: str) -> None:
        """This thread gives up: wake everybody who waits for it and tell the leader."""
        for shared in self._shared.family:
            shared.barrier.abort()
        self._shared.lost(reason)

    def _exchange(self, value: Any) -> list[Any]:
        """Everybody's value. Two rendezvous: nobody overwrites a slot before all have read it."""
        self._shared.slots[self.rank] = value
        self._shared.barrier.wait()
        everything = list(self._shared.slots)
        self._shared.barrier.wait()
        return everything
