"""The gateway's lookout: asks every instance again and again whether it is healthy, the fewer are still missing the more often each."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Dict, Iterable, List, Set

from disagg_launch.runtime import probe
from disagg_launch.runtime.fleet import ROUTER
from disagg_launch.runtime.record import Record

if TYPE_CHECKING:
    from disagg_launch.runtime.gateway import Gateway

ROUND_S, RESTING_ROUND_S = 0.02, 0.25
"""Between two rounds while somebody is missing, and while nobody is."""
PROBES_PER_S = 500
"""Those that are not up are not asked more often, all together."""
PATIENT_S, AHEAD_S = 0.05, 1.0
"""Between two probes of one that is not up. It is asked earlier by so much, and before others, if it listens or has just said something."""
RESTING_PROBES_PER_S = 40
"""As PROBES_PER_S for those that are up, each of which is asked every REST_S at most."""
REST_S = 2.0


class Lookout:
    """One loop for all, and a task for each question under way."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway, self._fleet = gateway, gateway.fleet
        self._watched: Dict[str, Record] = {}
        self._asked_s: Dict[str, float] = {}
        self._nudged: Set[str] = set()
        self._under_way: Set[str] = set()
        self._late = True

    def watch(self, ones: Iterable[Record]) -> None:
        """Begin to ask these."""
        if not self._watched:
            self._gateway.spawn(self._run())
        self._watched.update({one.name: one for one in ones})
        self._late = True

    def nudge(self, name: str) -> None:
        """It has just said something."""
        self._nudged.add(name)

    async def _run(self) -> None:
        while not self._fleet.stopping:
            for one in self._due(self._fleet.now_s()):
                self._asked_s[one.name] = self._fleet.now_s()
                self._nudged.discard(one.name)
                self._under_way.add(one.name)
                self._gateway.spawn(self._ask(one))
            await asyncio.sleep(ROUND_S if self._late else RESTING_ROUND_S)

    def _due(self, now_s: float) -> List[Record]:
        """Who is asked in this round: of those that are not up and of those that are, whoever has waited longest."""
        living = [one for one in self._watched.values() if one.started and not one.ended]
        self._late = any(not one.is_up for one in living)
        free = [one for one in living if not one.missing and one.name not in self._under_way]
        waited_s = {one.name: now_s - self._asked_s.get(one.name, -math.inf) for one in free}
        ahead_s = {one.name: AHEAD_S if self._is_promising(one) else 0.0 for one in free}
        late = [one for one in free if not one.is_up and waited_s[one.name] + ahead_s[one.name] >= PATIENT_S]
        late.sort(key=lambda one: -waited_s[one.name] - ahead_s[one.name])
        rest_s = max(self._gateway.launch.readiness.interval_s, REST_S, len(living) / RESTING_PROBES_PER_S)
        resting = [one for one in free if one.is_up and waited_s[one.name] >= rest_s]
        resting.sort(key=lambda one: -waited_s[one.name])
        return late[: int(PROBES_PER_S * ROUND_S)] + resting[: int(RESTING_PROBES_PER_S * RESTING_ROUND_S)]

    def _is_promising(self, one: Record) -> bool:
        return one.name in self._nudged or (one.seen is not None and one.seen.listening)

    async def _ask(self, one: Record) -> None:
        await self.look(one)
        self._under_way.discard(one.name)

    async def look(self, one: Record) -> None:
        """Ask one now, and have everybody who waits for it know what has changed."""
        launch, life = self._gateway.launch, one.starts
        path, port = launch.router.health, self._fleet.told_at
        if one.name != ROUTER:
            path, port = next(w.health for w in launch.workers if w.instance == one.name), one.port
        seen = await probe.probe(one.host, port, path, launch.readiness.probe_s)
        if one.started and one.starts == life and seen != one.seen:
            one.seen = seen
            self._gateway.proof.more()
            self._gateway.wake.set()
