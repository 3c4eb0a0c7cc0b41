"""Autoscaling: reads the router's figures, asks the policy, and has `disagg-launch scale` carry out what it wishes.

Planning is not part of this half, so the wish goes the way a person's would: a process of the interpreter that runs the router, with the
run folder and words such as gen=3 as arguments. It finds the gateway and its token by the run folder, as whoever types it does. While it is
under way nothing else is wished for; one that fails is said, and counts as a change: it is not tried again before the cool-down is over.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

from disagg_launch.errors import BackendRefused
from disagg_launch.launch import Autoscale
from disagg_launch.plan import PREFIX
from disagg_launch.runtime import figures, supervise
from disagg_launch.runtime.figures import Figures
from disagg_launch.runtime.policy import Watched, Wish
from disagg_launch.runtime.record import timestamp

if TYPE_CHECKING:
    from disagg_launch.runtime.gateway import Gateway

LOOK_S = 1.0
"""Between two looks for a policy, as long as there is none: an upgrade may bring one."""
SAID_LINES = 3


class Autoscaler:
    """The policy of launch.json, carried out for as long as the deployment is ready."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._before: Optional[Tuple[float, Figures]] = None
        self._watched = {role: Watched() for role in PREFIX}
        self._wishes: Dict[str, Wish] = {}
        self._last: Optional[Dict[str, Any]] = None
        self._trouble = ""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            policy = self._gateway.launch.autoscale
            await asyncio.sleep(policy.interval_s if policy else LOOK_S)
            if policy and self._undisturbed():
                await self._look(policy)

    def told(self) -> Optional[Dict[str, Any]]:
        """For status.json: what is wished for each role and why, and the `last` wish that was to be carried out; None without a policy."""
        if self._gateway.launch.autoscale is None:
            return None
        roles = {role: {"instances": self._count(role), "wish": one.instances, "why": one.why} for role, one in self._wishes.items()}
        return {"roles": roles, "last": self._last, "trouble": self._trouble}

    def _undisturbed(self) -> bool:
        gateway = self._gateway
        return gateway.state == "ready" and not gateway.scaling.progress({}, "")["busy"] and not gateway.repair.under_way

    async def _look(self, policy: Autoscale) -> None:
        loop, router = asyncio.get_running_loop(), self._gateway.fleet.router
        before, self._before = self._before, None
        try:
            now = await loop.run_in_executor(None, figures.read, router.host, self._gateway.fleet.told_at, self._gateway.token)
        except (OSError, ValueError) as problem:
            self._say(f"the router does not tell its load: {problem}")
            return
        self._say("")
        self._before = loop.time(), now
        if before is None or not self._undisturbed():
            return
        self._wishes = {role: self._judged(policy, role, (before, self._before)) for role in policy.targets}
        changes = {role: one for role, one in self._wishes.items() if one.instances != self._count(role)}
        if changes:
            await self._carry_out(policy, changes)

    def _judged(self, policy: Autoscale, role: str, readings: Tuple[Tuple[float, Figures], Tuple[float, Figures]]) -> Wish:
        (before_s, before), (now_s, now) = readings
        seen = figures.between(before[role], now[role], now_s, now_s - before_s, self._count(role))
        return self._watched[role].look(policy.targets[role], seen, policy.window_s)

    def _count(self, role: str) -> int:
        """As `scale` counts: further jobs of this run belong to it."""
        gateway = self._gateway
        idle = gateway.scaling.resting.union(gateway.repair.stranded.why)
        here = sum(one.role == role and one.name not in idle for one in gateway.plan.instances)
        return here + gateway.further.count(role)

    async def _carry_out(self, policy: Autoscale, wishes: Dict[str, Wish]) -> None:
        gateway = self._gateway
        words = [f"{PREFIX[role]}={one.instances}" for role, one in wishes.items()]
        why = "; ".join(f"{PREFIX[role]}: {one.why}" for role, one in wishes.items())
        self._last = {"time": timestamp(), "words": words, "why": why, "outcome": "under way"}
        self._note(f"autoscale wishes {' '.join(words)}: {why}")
        said: List[str] = []
        try:
            argv = (*policy.argv, gateway.run, *words)
            child = await gateway.fleet.nursery.start("autoscale", argv, gateway.run, gateway.environ(), said.append)
            status = await child.settled()
            outcome = "done" if status == 0 else "; ".join([supervise.said(status), *said[-SAID_LINES:]])
        except BackendRefused as refused:
            outcome = str(refused)
        self._last["outcome"] = outcome
        self._note(f"autoscale: {' '.join(words)}: {outcome}")
        for role in wishes:
            self._watched[role].changed(asyncio.get_running_loop().time(), in_vain=outcome != "done")
        self._before = None

    def _note(self, text: str) -> None:
        self._gateway.board.note(text)
        self._gateway.events.tell("autoscale", text)

    def _say(self, trouble: str) -> None:
        """Note a trouble when it is new."""
        if trouble and trouble != self._trouble:
            self._note(f"autoscale: {trouble}")
        self._trouble = trouble
