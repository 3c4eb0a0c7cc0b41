"""Instances whose node is lost and that nothing can take in now: the others serve on, as long as they are enough, and it is tried again.

A spare node may come free and a host that was silent may be heard of again. A trial that fails costs no restart of the policy's, but
the next one comes later.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Collection, Dict, Iterable, Mapping, Optional, Set, Tuple

from disagg_launch.errors import BackendRefused
from disagg_launch.runtime.readiness import FAILED, Verdict
from disagg_launch.runtime.record import Record

if TYPE_CHECKING:
    from disagg_launch.runtime.gateway import Gateway

LONGEST_S = 600.0
"""Between two trials of one that fails again and again."""
ENOUGH = 1


def short_of(ones: Iterable[Tuple[str, str]], stranded: Collection[str], elsewhere: Mapping[str, int], least: Mapping[str, int]) -> str:
    """The first role that has lost somebody and of which too few are left, "" while the others can serve on. Pure.

    `ones`: (name, role) of all that are to run, the `stranded` among them; `elsewhere`: how many more of each role serve in further jobs.
    `least`: how many are needed, 1 of a role that it does not name. Who is just being restarted counts as left.
    """
    left: Dict[str, int] = {}
    hurt = []
    for name, role in ones:
        left[role] = left.get(role, elsewhere.get(role, 0)) + (name not in stranded)
        if name in stranded:
            hurt.append(role)
    return next((role for role in hurt if left[role] < least.get(role, ENOUGH)), "")


class Stranded:
    """`why`: by name, why it cannot run now. A name stays until its instance gets requests again, or it is somebody else's business."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway, self._fleet = gateway, gateway.fleet
        self.why: Dict[str, str] = {}
        self.tried: Set[str] = set()
        """Who is being started to try."""
        self._running = False
        self._pause_s: Dict[str, float] = {}
        self._due_s: Dict[str, float] = {}

    def begin(self, one: Record, why: str) -> None:
        """It has ended, and cannot be started now."""
        if not self._running:
            self._running = True
            self._gateway.spawn(self._run())
        self.why[one.name] = why
        self._put_off(one.name)
        if self.verdict() is None:
            self._gateway.board.note(f"DEGRADED: {one.name} cannot be started now: {why}; the others serve on ({self.left()})")
            self._gateway.events.tell("degraded", f"it cannot be started now: {why}", one.name, ok=False)
        self._gateway.wake.set()

    def leave(self, name: str) -> None:
        """It is somebody else's business from now on, or well again."""
        if self.why.pop(name, None) is not None:
            self._pause_s.pop(name, None)
            how = f"still DEGRADED without {', '.join(sorted(self.why))}" if self.why else "not degraded any more"
            self._gateway.board.note(f"{name} is missing no more: {how} ({self.left()})")
            self._gateway.events.tell("degraded", "it is missing no more", name, ok=True)

    def idle(self, name: str) -> Set[str]:
        """Those whose healthy nodes the instance `name` may have."""
        return set(self.why) - self.tried - {name}

    def verdict(self) -> Optional[Verdict]:
        """The end, if those that are left are too few; else None."""
        if not self.why:
            return None
        ones = [(one.name, one.role) for one in self._gateway.scaling.awake()]
        least = self._gateway.launch.policy.least
        role = short_of(ones, self.why, self._gateway.further.serving(), least)
        if not role:
            return None
        # who was missing before did not end it
        last = next(one for one in map(self._fleet.records.__getitem__, reversed(list(self.why))) if one.role == role)
        needed = least.get(role, ENOUGH)
        few = f"no {role} instance is left" if needed == ENOUGH else f"fewer {role} instances are left than are needed ({needed})"
        why = f"{last.name} ended: {last.ended}; {self.why[last.name]}; {few}{self.told(last.name)}"
        return Verdict(FAILED, why, last.code, last.name)

    def told(self, but: str = "") -> str:
        """A half-sentence for everybody who is missing."""
        return "".join(f"; {name} was missing: {why}" for name, why in self.why.items() if name != but)

    def left(self) -> str:
        """How many serve of those there should be, by role: "context 1 of 2, generation 2 of 2"."""
        elsewhere = self._gateway.further.serving()
        counts: Dict[str, Tuple[int, int]] = {}
        for one in self._gateway.scaling.awake():
            there, of = counts.get(one.role, (elsewhere.get(one.role, 0),) * 2)
            counts[one.role] = there + (one.name not in self.why), of + 1
        return ", ".join(f"{role} {there} of {of}" for role, (there, of) in counts.items())

    def _put_off(self, name: str) -> None:
        fence_s = self._gateway.launch.policy.fence_s
        self._pause_s[name] = min(2 * self._pause_s.get(name, fence_s / 2), max(LONGEST_S, fence_s))
        self._due_s[name] = self._fleet.now_s() + self._pause_s[name]

    async def _run(self) -> None:
        """Try again, as long as anybody waits. What Slurm says is asked once for all who are due."""
        while self.why and not self._fleet.stopping:
            await asyncio.sleep(self._gateway.launch.policy.fence_s)
            due = [name for name in self.why if name not in self.tried and self._due_s[name] <= self._fleet.now_s()]
            if due and not self._fleet.stopping:
                await self._fleet.hosts.ask(self._fleet.step_of[due[0]], self._gateway.environ())
            for name in due:
                if name in self.why:
                    self.tried.add(name)
                    self._gateway.spawn(self._try(self._fleet.records[name]))
        self._running = False

    async def _try(self, one: Record) -> None:
        repair, ends = self._gateway.repair, one.starts
        try:
            await repair.start(one, trial=True)
            await repair.until_healthy(one)
        except BackendRefused as refused:
            one.end(str(refused), self._fleet.now_s())
            self.why[one.name] = str(refused)
        finally:
            self.tried.discard(one.name)
        if self._fleet.stopping or one.name not in self.why or one.starts == ends:
            return
        if one.ended:
            await self._in_vain(one)
        elif one.routed:
            self.leave(one.name)

    async def _in_vain(self, one: Record) -> None:
        one.forgive(lives=max(1, one.tries - 1))
        self.why[one.name] = f"it was started again and ended: {one.ended}"
        self._put_off(one.name)
        self._gateway.board.note(f"{one.name}: {self.why[one.name]}; it is tried again in {self._pause_s[one.name]:g} s")
        await self._gateway.repair.clear(one)
