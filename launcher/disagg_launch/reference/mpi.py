"""Ranks as MPI processes. Waiting ranks poll and sleep, because a blocking MPI receive burns a whole core.

Reports out of turn, and the news that a process is gone, go over the `lifeline` beside MPI.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Optional

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from disagg_launch.reference.comm import Json
from disagg_launch.reference.lifeline import LeaderEnd, RankEnd

Array = npt.NDArray[np.float32]

TAG = 1
SPIN_S = 0.002  # the next message of a busy instance comes within this time: ask again at once
NAP_S = 0.001


class MpiComm:
    """A group of MPI ranks. Only one thread of a process may use it, apart from `report`."""

    def __init__(self, comm: MPI.Comm, host: str = "") -> None:
        """With `host`, where the leader can be reached, the lifelines are tied; then every rank of the instance must call this."""
        if MPI.Query_thread() < MPI.THREAD_SERIALIZED:
            raise RuntimeError("this MPI does not allow calls from a second thread (MPI_THREAD_SERIALIZED is needed)")
        self._comm = comm
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self._lifeline: Optional[LeaderEnd | RankEnd] = None
        if host:
            leader = LeaderEnd(host, self.size) if self.rank == 0 else None
            address = comm.bcast(leader.address if leader else None, root=0)
            self._lifeline = leader or RankEnd(address, self.rank)

    def split(self, colour: int) -> MpiComm:
        """The ranks of one colour, in the order they have here."""
        return MpiComm(self._comm.Split(colour, self.rank))

    def send(self, value: Any, to: int) -> None:
        """A blocking send of any picklable value."""
        self._comm.send(value, dest=to, tag=TAG)

    def receive(self, source: int) -> Any:
        """The next value from `source`: asks often at first, then naps between two questions."""
        began = time.monotonic()
        while not self._comm.Iprobe(source=source, tag=TAG):
            if time.monotonic() - began < SPIN_S:
                os.sched_yield()
            else:
                time.sleep(NAP_S)
        return self._comm.recv(source=source, tag=TAG)

    def sum(self, array: Array) -> Array:
        """Summed in place. Yields while it waits: a blocking call spins, and with more ranks than cores the one to wait for cannot run."""
        if self.size > 1:
            array = np.ascontiguousarray(array)
            request = self._comm.Iallreduce(MPI.IN_PLACE, array, op=MPI.SUM)
            while not request.Test():
                os.sched_yield()
        return array

    def gather(self, array: Array) -> Optional[list[Array]]:
        """All arrays on rank 0."""
        return [array] if self.size == 1 else self._comm.gather(array, root=0)

    def report(self, event: Json) -> None:
        """Over the lifeline; on the leader straight to the listener."""
        if self._lifeline:
            self._lifeline.report(event)

    def listen(self, hear: Callable[[Json], None], lost: Callable[[str], None]) -> None:
        """Leader: watch the lifelines."""
        if isinstance(self._lifeline, LeaderEnd):
            self._lifeline.listen(hear, lost)

    def leave(self) -> None:
        """This rank ends in order: its silence is no alarm."""
        if self._lifeline:
            self._lifeline.close()

    def fail(self, reason: str) -> None:
        """Another rank: say over the lifeline why it cannot go on."""
        if isinstance(self._lifeline, RankEnd):
            self._lifeline.fail(reason)
