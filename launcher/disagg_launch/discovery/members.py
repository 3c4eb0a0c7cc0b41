"""From a store's changes to the front door's table of workers.

    set --> joining --health 200--> ready          deleted --> draining --nothing under way--> out
    expired --> asked again and again: silent --> out; answering --> it stays until it registers again, for GRACE time-outs at most

So a late heartbeat costs a live worker nothing, and neither does a storage that was away.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from disagg_launch.router.workers import State, Worker
from disagg_launch.runtime.cluster import Member
from disagg_launch.runtime.stores import DELETED, SET, Change

if TYPE_CHECKING:
    from disagg_launch.router.fleet import Fleet

GRACE = 3

log = logging.getLogger(__name__)


class Members:
    """Who is registered, and the fleet that follows it. `read` is an entry's value -> its worker; ValueError if it is none.

    `hear` and `look` are to be called in the fleet's event loop; `silent_s` is the time-out of an entry.
    """

    def __init__(self, fleet: Fleet, read: Callable[[str], Member], silent_s: float, now: Callable[[], float]) -> None:
        self._fleet, self._read, self._now = fleet, read, now
        self._grace_s = GRACE * silent_s
        self._members: dict[str, Member] = {}
        self._silent: dict[str, float] = {}
        self._leaving: dict[Worker, float] = {}

    def hear(self, change: Change) -> None:
        """One change of the store."""
        if change.kind == SET:
            self._join(change.key, change.value)
        elif change.key not in self._members:
            return
        elif change.kind == DELETED:
            self._leave(change.key, "left")
        else:
            self._silent[change.key] = self._now()

    def look(self) -> None:
        """Judge those whose entry expired, and let those go who left and have nothing under way."""
        for key, since in list(self._silent.items()):
            worker = self._worker(self._members[key])
            if worker is None or worker.state in (State.GONE, State.JOINING):
                self._leave(key, "does not answer")
            elif self._now() - since > self._grace_s:
                self._leave(key, f"has not registered again for {self._grace_s:g} s")
        self._let_go()

    def _let_go(self) -> None:
        """Those who left and have nothing under way are out."""
        for worker, since in list(self._leaving.items()):
            if not worker.active or worker.state is State.GONE or self._now() - since > self._fleet.config.front_door.request_timeout_s:
                del self._leaving[worker]
                if self._fleet.table.by_url.get((worker.role, worker.url)) is worker:  # else the gateway had it taken out before
                    self._fleet.remove(worker)

    def _join(self, key: str, value: str) -> None:
        try:
            member = self._read(value)
        except ValueError as wrong:
            log.warning("%s is passed over: %s", key, wrong)
            return
        self._silent.pop(key, None)
        before = self._members.get(key)
        if before == member:
            return
        if before is not None:
            self._leave(key, "has moved")
        # whoever registers at an address is who is there now: an expired entry of the same address is an earlier life's
        for other in [k for k in self._silent if _place(self._members[k]) == _place(member)]:
            del self._silent[other], self._members[other]
        self._members[key] = member
        worker = self._fleet.add(member.role, member.url)
        worker.worker_id = member.worker_id
        if self._leaving.pop(worker, None) is not None or worker.state is State.GONE:
            self._fleet.change(worker, State.JOINING)
        log.info("%s %s has joined", member.role, member.url)

    def _leave(self, key: str, why: str) -> None:
        member = self._members.pop(key)
        self._silent.pop(key, None)
        worker = self._worker(member)
        if worker is None or any(_place(one) == _place(member) for one in self._members.values()):
            return
        log.info("%s %s %s", member.role, member.url, why)
        if worker.state is not State.GONE:
            self._fleet.change(worker, State.DRAINING)
        self._leaving[worker] = self._now()
        self._let_go()

    def _worker(self, member: Member) -> Worker | None:
        return self._fleet.table.by_url.get(_place(member))


def _place(member: Member) -> tuple[str, str]:
    return member.role, member.url
