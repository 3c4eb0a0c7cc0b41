"""From the first step to the open front door: wait until every instance is really ready, prove it, open once."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence

from disagg_launch.errors import BackendRefused
from disagg_launch.runtime import allocation, bootstrap, folder
from disagg_launch.runtime import binding as bindings
from disagg_launch.runtime.fleet import ROUTER
from disagg_launch.runtime.readiness import READY, WAIT, Verdict, judge
from disagg_launch.runtime.record import Record

if TYPE_CHECKING:
    from disagg_launch.runtime.gateway import Gateway


class Opening:
    """The gateway's way from nothing to ready. `carry_out` is the whole of it, once the steps have been started."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway, self._fleet = gateway, gateway.fleet
        self._open_file = os.path.join(gateway.run, "state", "open")
        """A router that was started beforehand, so that its own start costs nothing when all is ready, listens when this is there."""

    def claim_port(self) -> None:
        """BackendRefused when the front door's port is taken: better now than after every model has been loaded."""
        if not self._gateway.launch.router.argv:
            return
        host, port = self._gateway.launch.router.host, self._fleet.router.port
        taken = bootstrap.listener(host or bindings.ANYWHERE[0], port)
        if taken:
            raise BackendRefused(f"the router's port {port} of {host} is taken ({taken}): end what listens there, or give another `port`")

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
        router = self._gateway.launch.router
        early, held = router.early, router.waits and not router.early
        if held:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._open_file)
            await self._fleet.start_router(self._gateway.environ(), self._open_file)
        instances = list(self._fleet.records.values())
        self._gateway.lookout.watch(instances)
        self._gateway.spawn(self._gateway.vitals.watch())
        verdict = await self._until_up([*instances, self._fleet.router] if early else instances)
        if self._gateway.launch.router.argv:
            if verdict.state == READY and held:
                folder.write_private(self._open_file, "")
                self._gateway.lookout.watch([self._fleet.router])
            elif verdict.state == READY and not early:
                await self.start_router()
            if verdict.state == READY:
                verdict = await self._until_up([*instances, self._fleet.router])
        elif verdict.state == READY and self._gateway.joined is not None:
            await self._gateway.joined.enter()
            verdict = await self._until_up(instances)
        if verdict.state == READY:
            verdict = await self._proved()
        if verdict.state == READY:
            self._opened()
        return verdict

    async def _proved(self) -> Verdict:
        """What the proof says, or what goes wrong meanwhile."""
        gateway = self._gateway
        work = asyncio.ensure_future(gateway.proof.of_all())
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

    async def start_router(self) -> None:
        """The front door's process begins."""
        await self._fleet.start_router(self._gateway.environ())
        self._gateway.lookout.watch([self._fleet.router])

    async def _until_up(self, ones: Sequence[Record]) -> Verdict:
        """READY when all of these are; what fails on the way ends it."""
        gateway, ready = self._gateway, self._gateway.launch.readiness
        began_s = gateway.loop.time()
        while True:
            now_s = gateway.loop.time()
            seen = [one.observed(now_s) for one in (*ones, *([self._fleet.router] if self._fleet.router.ended else []))]
            verdict = gateway.interrupted() or judge(seen, now_s - began_s, ready.limit_s, ready.stall_s)
            gateway.board.progress(seen, final=verdict.state != WAIT)
            gateway.save()
            if verdict.stuck:
                await gateway.vitals.stacks(verdict.stuck)
            if verdict.state != WAIT:
                return verdict
            await gateway.pause()

    def _opened(self) -> None:
        gateway, router = self._gateway, self._fleet.router
        for one in (*self._fleet.records.values(), router):
            one.routed = True
        gateway.state = "ready"
        gateway.save(final=True)
        gateway.ready_s = gateway.events.tell("router", "the front door is open", ROUTER, stage="open")
        front = gateway.launch.router
        page = f"http://{router.host}:{front.admin_port or router.port}{front.page}" if front.page else ""
        gateway.board.ready(f"http://{router.host}:{router.port}", page)
