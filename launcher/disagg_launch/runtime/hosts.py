"""Which of the run's hosts can be used: what the gateway knows itself, and what whoever gave them says when asked."""

from __future__ import annotations

from typing import List, Mapping, Sequence, Set

from disagg_launch.launch import Start
from disagg_launch.runtime.supervise import Nursery


class Hosts:
    """`silent`: hosts that have not been heard of; a report from one takes it out."""

    def __init__(self, run: str, nursery: Nursery) -> None:
        self._run, self._nursery = run, nursery
        self.silent: Set[str] = set()
        self._unusable: Set[str] = set()
        self._given_back: Set[str] = set()

    @property
    def lost(self) -> Set[str]:
        """Those on which nothing can be started: silent, given back, or unusable by what was said when it was asked last."""
        return self.silent | self.gone

    @property
    def gone(self) -> Set[str]:
        """The lost ones without those that were only silent."""
        return self._unusable | self._given_back

    async def ask(self, start: Start, environ: Mapping[str, str]) -> None:
        """Learn on which hosts no step can be started now."""
        told: List[str] = []
        if start.lost:
            child = await self._nursery.start("lost", start.lost, self._run, environ, told.append)
            await child.settled()
        self._unusable = {line.strip() for line in told}

    async def give_back(self, start: Start, hosts: Sequence[str], environ: Mapping[str, str]) -> List[str]:
        """Hosts that nobody needs go back to whom they came from; those that did."""
        told: List[str] = []
        if start.release and hosts:
            child = await self._nursery.start("release", [*start.release, *hosts], self._run, environ, told.append)
            await child.settled()
        gone = [host for host in hosts if host in told]
        self._given_back.update(gone)
        return gone
