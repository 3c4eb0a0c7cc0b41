"""From the verdict to the last process: say what happened, stop everybody in order, close the books."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, List

from disagg_launch.runtime import exposition
from disagg_launch.runtime import verdict as verdicts
from disagg_launch.runtime.readiness import Verdict
from disagg_launch.runtime.scribe import FILES, LAST_WORDS_S

if TYPE_CHECKING:
    from disagg_launch.runtime.gateway import Gateway


class Closing:
    """The gateway's way from a verdict to nothing. `carry_out` is the whole of it."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway, self._fleet = gateway, gateway.fleet
        self._oom_kills = verdicts.oom_kills()

    async def carry_out(self, verdict: Verdict) -> None:
        """Come back when nothing is left."""
        await self._announce(verdict)
        await self._stop()
        self._finish(verdict)

    async def _announce(self, verdict: Verdict) -> None:
        """The verdict in words and in state/verdict.json. Reading the logs is left to a thread: leases want their beats meanwhile."""
        gateway = self._gateway
        gateway.board.note(f"{verdict.state}: {verdict.reason}")
        gateway.events.follow([*self._fleet.records.values(), self._fleet.router])
        gateway.events.tell("verdict", verdict.reason, verdict.instance, state=verdict.state, code=verdict.exit_code)
        killed = verdicts.oom_kills() - self._oom_kills
        said = verdict.state, verdict.reason, verdict.exit_code, verdict.instance
        await gateway.loop.run_in_executor(None, FILES.flush, LAST_WORDS_S)
        told = await gateway.loop.run_in_executor(None, verdicts.judged, gateway.run, *said, killed)
        with contextlib.suppress(OSError):  # on a full disk it is said, and everybody is stopped in order all the same
            verdicts.write(gateway.run, told)
        for text in verdicts.paragraphs(told):
            gateway.board.note(text)

    async def _stop(self) -> None:
        gateway = self._gateway
        gateway.state = "stopping"
        gateway.save(final=True)
        if self._fleet.router.routed and gateway.launch.router.drain_s:
            gateway.board.note(f"the front door takes nothing new; requests under way get {gateway.launch.router.drain_s:g} s")
        self._fleet.spared |= gateway.holding.processes()  # whoever stops still uses the ports
        others: List[asyncio.Future[None]] = []

        def tell_remote() -> None:
            gateway.desk.tell_leases({"stop": True})
            others.append(asyncio.ensure_future(gateway.further.end()))

        await self._fleet.stop(gateway.environ(), gateway.hasten, tell_remote)
        await asyncio.gather(*others)
        await gateway.further.ended(2 * gateway.launch.policy.grace_s)
        await gateway.holding.close()
        gateway.opening.claims.close()
        gateway.cease()
        await gateway.desk.close()
        await gateway.exposition.close()
        exposition.withdraw(gateway.run)

    def _finish(self, verdict: Verdict) -> None:
        gateway = self._gateway
        gateway.state = verdict.state
        gateway.save(final=True)
        gateway.board.note("everything has ended")
        gateway.events.tell("stopped", "everything has ended", state=verdict.state)
        self._fleet.nursery.close()
        if gateway.warden is not None:
            gateway.warden.communicate()  # closes its standard input, upon which it leaves
