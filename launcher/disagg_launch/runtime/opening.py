"""From the first step to the open front door: wait until every instance is really ready, prove it, open once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence

from disagg_launch.errors import BackendRefused, NotReady
from disagg_launch.runtime import allocation, probe
from disagg_launch.runtime import binding as bindings
from disagg_launch.runtime.claims import Claims
from disagg_launch.runtime.fleet import ROUTER
from disagg_launch.runtime.readiness import FAILED, READY, WAIT, Verdict, judge
from disagg_launch.runtime.record import Record
from disagg_launch.runtime.reports import is_loopback, short

if TYPE_CHECKING:
    from disagg_launch.runtime.gateway import Gateway

LOOK_EACH_S = 0.0003
"""To look at all of hundreds takes time, for which the last one would have to wait: the more there are, the less often it is done."""


class Opening:
    """The gateway's way from nothing to ready. `carry_out` is the whole of it, once the desk is there for the ranks."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway, self._fleet = gateway, gateway.fleet
        self._starting: asyncio.Future[None]
        self.claims = Claims()

    def claim_ports(self) -> None:
        """BackendRefused when a port of this run on this machine is another's: better now than after every model has been loaded."""
        front, plan, binding = self._gateway.launch.router, self._gateway.plan, self._fleet.binding
        ports = {self._fleet.told_at: "port" if front.admin_rises else "router.options.admin_port", self._fleet.router.port: "port"}
        for port, key in ports.items() if front.argv else ():
            self._claim("the router", front.host or bindings.ANYWHERE[0], port, key, free=True)
        # which of them somebody else listens on, their ranks will say, on whatever machine they are
        for one in plan.instances if not self._gateway.launch.ports.workers else ():
            node = one.nodes[0]
            if is_loopback(binding.addresses[node]) or short(binding.hosts[node]) == short(socket.gethostname()):
                self._claim(one.name, binding.addresses[node], one.port + binding.side_up, "cluster.base_port")

    def _claim(self, who: str, host: str, port: int, key: str, free: bool = False) -> None:
        if taken := self.claims.take(host, port, free):
            raise BackendRefused(f"{who}'s port {port} of {host} is taken ({taken}): end that, or give another `{key}`")

    async def tell_job_times(self) -> None:
        """When the Slurm job was sent and when it was given its nodes, which only Slurm knows."""
        said: List[str] = []
        with contextlib.suppress(BackendRefused):
            argv, environ = allocation.ask_times(os.environ)
            asked = await self._fleet.nursery.start("squeue", argv, self._gateway.run, environ, said.append)
            await asked.settled()
        times = dict(allocation.times(said))
        until: Dict[str, Any] = {"until": times.pop("until")} if "until" in times else {}
        for event, at_s in times.items():
            self._gateway.events.tell(event, at_s=at_s, job=allocation.job(os.environ), **(until if event == "allocated" else {}))

    async def carry_out(self) -> Verdict:
        """READY when the front door is open, else why it never will be."""
        gateway, front = self._gateway, self._gateway.launch.router
        ones = gateway.scaling.awake()
        if front.early or front.waits:
            await self._start_router(closed=front.waits)
        gateway.lookout.watch(self._fleet.records.values())
        gateway.spawn(gateway.vitals.watch())
        self._starting = asyncio.ensure_future(self._start_steps())
        try:
            if front.waits:
                verdict = await self._behind_closed_door(ones)
            elif front.argv:
                verdict = await self._before_router(ones)
            else:
                verdict = await self._beside_others(ones)
        finally:
            self._starting.cancel()
        if verdict.state == READY:
            self._opened()
        return verdict

    async def _start_steps(self) -> None:
        """One after the other, while those that have begun are looked after; not who is at rest."""
        for start in self._gateway.launch.starts:
            if not self._gateway.scaling.resting.issuperset(start.instances):
                await self._fleet.start_step(start, self._gateway.environ())
                await asyncio.sleep(0)

    async def _start_router(self, closed: bool = False) -> None:
        await self._fleet.start_router(self._gateway.environ(), closed)
        self._gateway.lookout.watch([self._fleet.router])

    # ---- three front doors ------------------------------------------------------------------------------------------------

    async def _behind_closed_door(self, ones: Sequence[Record]) -> Verdict:
        """Our own router is there from the beginning and lets only us in: pairs are proved as they come up, then clients may come."""
        gateway, router = self._gateway, self._fleet.router
        verdict = await self._until_up(ones, proving=True)
        if verdict.state != READY:
            return verdict
        seen = await probe.post(router.host, self._fleet.told_at, "/admin/open", {}, gateway.router_token, gateway.launch.readiness.probe_s)
        if not seen.healthy:
            return Verdict(FAILED, f"the router did not open: {seen.detail}", NotReady.exit_code, ROUTER)
        await gateway.lookout.look(router)
        return await self._until_up([*ones, router])

    async def _before_router(self, ones: Sequence[Record]) -> Verdict:
        """Another's router takes clients in as soon as it is there: it comes last, unless instances have to register with it first."""
        early, router = self._gateway.launch.router.early, self._fleet.router
        verdict = await self._until_up([*ones, router] if early else ones)
        if verdict.state == READY and not early:
            await self._start_router()
            verdict = await self._until_up([*ones, router])
        return await self._proved() if verdict.state == READY else verdict

    async def _beside_others(self, ones: Sequence[Record]) -> Verdict:
        """The front door is another run's, or nobody's."""
        verdict = await self._until_up(ones)
        if verdict.state == READY and self._gateway.joined is not None:
            await self._gateway.joined.enter()
            verdict = await self._until_up(ones)
        return verdict

    async def _proved(self) -> Verdict:
        """What the proof says, or what goes wrong meanwhile."""
        gateway = self._gateway
        if not gateway.launch.router.proves:
            return Verdict(READY)
        work = asyncio.ensure_future(gateway.proof.of_router())
        work.add_done_callback(lambda _: gateway.wake.set())
        while not work.done():
            died = gateway.interrupted() or self._died()
            if died is not None:
                work.cancel()
                return died
            gateway.save()
            await gateway.pause()
        return work.result()

    def _died(self) -> Optional[Verdict]:
        ones = (*self._fleet.records.values(), self._fleet.router)
        return judge([one.observed() for one in ones], 0, 1) if any(one.ended for one in ones) else None

    async def _until_up(self, ones: Sequence[Record], proving: bool = False) -> Verdict:
        """READY when all of these are, and `proving` their pairs are proved; what fails on the way ends it. BackendRefused by a step."""
        gateway, ready, router = self._gateway, self._gateway.launch.readiness, self._fleet.router
        began_s = gateway.loop.time()
        while True:
            now_s = gateway.loop.time()
            # a closed router is as it should be when it listens; its health page says no more before it is open
            door = [router] if router.ended or (proving and not (router.seen and router.seen.listening)) else []
            seen = [one.observed(now_s) for one in (*ones, *door)]
            verdict = gateway.interrupted() or judge(seen, now_s - began_s, ready.limit_s, ready.stall_s)
            if verdict.state == READY and proving:
                verdict = gateway.proof.verdict()
                if verdict.state == READY:
                    return verdict  # the door first: what is to be shown and saved can wait
            gateway.board.progress(seen, final=verdict.state != WAIT)
            gateway.save()
            if verdict.stuck:
                await gateway.vitals.stacks(verdict.stuck)
            if verdict.state != WAIT:
                return verdict
            await gateway.pause()
            while gateway.loop.time() < now_s + len(ones) * LOOK_EACH_S and not self._is_decided(ones, proving):
                await gateway.pause()
            if self._starting.done():
                self._starting.result()

    def _is_decided(self, ones: Sequence[Record], proving: bool) -> bool:
        """Whether there is an end to be told."""
        gateway, ended = self._gateway, any(one.ended for one in (*ones, self._fleet.router))
        up = all(one.is_up for one in ones) and not (proving and gateway.proof.verdict().state == WAIT)
        return gateway.interrupted() is not None or ended or up

    def _opened(self) -> None:
        gateway, router = self._gateway, self._fleet.router
        for one in (*self._fleet.records.values(), router):
            one.routed = one.started
        gateway.events.follow([*self._fleet.records.values(), router])
        gateway.ready_s = gateway.events.tell("router", "the front door is open", ROUTER, stage="open")
        gateway.state = "ready"
        gateway.save(final=True)
        page = gateway.launch.router.page
        gateway.board.ready(router.url, page and router.at(page))
