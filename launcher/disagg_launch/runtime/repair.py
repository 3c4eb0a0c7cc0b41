"""What is done about a death after ready, by the policy of launch.json: the instance's own step again, elsewhere if need be; or the end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Optional, Set

from disagg_launch.errors import BackendRefused
from disagg_launch.runtime import folder, probe, processes
from disagg_launch.runtime.readiness import FAILED, READY, Verdict, judge
from disagg_launch.runtime.record import Record
from disagg_launch.runtime.stranded import Stranded

if TYPE_CHECKING:
    from disagg_launch.runtime.gateway import Gateway


NOT_THERE = 404
LONG_S = 3600.0
"""Who has lived for so long does well, and its restarts before that do not count any more: a deployment may run for weeks."""


class Repair:
    """Restarts, each with its own pause and count. `under_way` are the names of those that are somebody's business already."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway, self._fleet, self._board = gateway, gateway.fleet, gateway.board
        self.under_way: Set[str] = set()
        self.stranded = Stranded(gateway)
        self._hopeless: Optional[Verdict] = None

    def verdict(self) -> Optional[Verdict]:
        """The end, if the policy says so; else None, and whoever has ended is on the way to another life."""
        policy = self._gateway.launch.policy
        ones = [*self._fleet.records.values(), self._fleet.router]
        for one in ones:
            if not one.ended or one.name in self.under_way or one.name in self.stranded.why:
                continue
            if policy.on_failure != "restart" or not self._is_alone(one):
                return judge([each.observed() for each in ones], 0, 1)
            if one.ended_s - one.begun_s > LONG_S:
                one.forgive(lives=1)
            if one.tries > policy.max_restarts:
                how = f"{one.name} ended again after {policy.max_restarts} restarts (restart.max_restarts): {one.ended}"
                return Verdict(FAILED, how, one.code, one.name)
            self.under_way.add(one.name)
            self._gateway.spawn(self._restart(one))
        return self._hopeless or self.stranded.verdict()

    def _is_alone(self, one: Record) -> bool:
        """Whether nobody else lives in its step."""
        return one is self._fleet.router or len(self._fleet.step_of[one.name].instances) == 1

    async def _restart(self, one: Record) -> None:
        """End what is left of its step, pause, start it again, and let the router use it when it is healthy."""
        policy = self._gateway.launch.policy
        pause_s = policy.backoff_s * 2 ** (one.tries - 1)
        self._board.note(f"{one.name} ended: {one.ended}; restart {one.tries} of {policy.max_restarts} in {pause_s:g} s")
        self._gateway.events.tell("restart", one.ended, one.name, life=one.starts + 1, pause_s=pause_s)
        if one is not self._fleet.router:
            await self.clear(one)
        await asyncio.sleep(pause_s)
        if self._fleet.stopping:
            return
        try:
            await self.start(one)
        except BackendRefused as refused:
            self._refused(one, refused)
            return
        finally:
            self.under_way.discard(one.name)
        await self.until_healthy(one)

    def _refused(self, one: Record, refused: BackendRefused) -> None:
        """It cannot be started now: without a front door nobody is served, other instances may be enough."""
        if self._fleet.stopping:
            return
        if one is not self._fleet.router:
            one.end(str(refused), self._fleet.now_s())
            self.stranded.begin(one, str(refused))
            return
        self._hopeless = Verdict(FAILED, f"{one.name} ended: {one.ended}; {refused}", one.code, one.name)
        self._gateway.wake.set()

    async def clear(self, one: Record) -> None:
        """An instance has ended: it gets no more requests, and what is left of its step ends."""
        await self.tell_router(one, "gone")
        if self._gateway.proof.by_pairs:
            await self.tell_router(one, "drain")  # so that its health alone does not bring it back, but a proof
        # ranks that Slurm has lost sight of, but not we, must not live beside those that replace them
        self._gateway.desk.tell_leases({"stop": True}, one.name)
        await self._fleet.end_step(self._fleet.step_of[one.name], self._gateway.environ(), self._gateway.hasten)

    async def start(self, one: Record, trial: bool = False) -> None:
        """Begin another life of it, elsewhere if need be (`trial`: see Fleet.leave_lost_hosts). BackendRefused if that is not possible."""
        environ = self._gateway.environ()
        if one is self._fleet.router:
            await self._fleet.start_router(environ)
            return
        start = self._fleet.step_of[one.name]
        if not trial:
            await self._fleet.hosts.ask(start, environ)
        await self.move(one, trial)
        await self._fleet.start_step(start, environ)

    async def move(self, one: Record, trial: bool = False) -> None:
        """Give the instance spare hosts for lost ones, and everybody who knows the old ones the new."""
        gateway, before = self._gateway, self._fleet.binding
        old = Record(one.name, one.host, one.port, one.log_path)
        idle = gateway.scaling.resting | self.stranded.idle(one.name)
        moved = self._fleet.leave_lost_hosts(self._fleet.step_of[one.name], idle, trial)
        now = self._fleet.binding
        for node in moved:
            self._board.note(f"node {node} of the plan is {now.hosts[node]} from now on: {before.hosts[node]} is lost")
        if moved:
            folder.write_bound(gateway.run, gateway.plan, gateway.launch, now)
        if one.host != old.host:
            await self.tell_router(old, "remove")

    async def until_healthy(self, one: Record) -> None:
        """Wait for an instance or the router that was started again, and let the router use it; back too when it ended."""
        gateway, ready, loop = self._gateway, self._gateway.launch.readiness, self._gateway.loop
        life, began_s = one.starts, loop.time()
        while one.starts == life and one.started and not one.ended and not self._fleet.stopping:
            now_s = loop.time()
            verdict = judge([one.observed(now_s)], now_s - began_s, ready.limit_s, ready.stall_s)
            if verdict.state == READY:
                await self._back(one)
                return
            if verdict.state == FAILED:
                await gateway.vitals.stacks(verdict.stuck)
                one.end(f"after its restart {verdict.reason}", loop.time())
            await asyncio.sleep(processes.POLL_S)

    async def _back(self, one: Record) -> None:
        """It is healthy: requests may be sent to it, once it is proved. One that cannot be has ended."""
        if one is self._fleet.router:
            self._gateway.events.tell("router", "the front door is open again", one.name, stage="open")
        else:
            why = await self._gateway.proof.of_one(one)
            if why:
                one.end(f"healthy after its restart, but {why}", self._gateway.loop.time())
                return
            await self.tell_router(one, "undrain")
        one.routed = True
        self._board.note(f"{one.name} is {'back' if one.tries > 1 else 'up'}")

    async def tell_router(self, one: Record, what: str) -> None:
        """POST /admin/`what` for an instance; that it was in vain is noted. Nothing to a router that takes no word of ours."""
        router, gateway = self._fleet.router, self._gateway
        if not gateway.heeded:
            return
        # with its role the router takes an instance in that it does not know: one that comes back on another host
        message = {"worker": f"{one.host}:{one.port}", **({"role": one.role} if what == "undrain" else {})}
        port = gateway.fleet.told_at
        seen = await probe.post(router.host, port, f"/admin/{what}", message, gateway.router_token, gateway.launch.readiness.probe_s)
        if not seen.healthy and not (what == "remove" and seen.status == NOT_THERE):
            self._board.note(f"the router was not told to {what} {one.name}: {seen.detail}")
