"""The gateway's lookout: asks every instance again and again whether it is healthy, sooner when it has just said something."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Dict, Iterable

from disagg_launch.runtime import probe
from disagg_launch.runtime.fleet import ROUTER
from disagg_launch.runtime.record import Record

if TYPE_CHECKING:
    from disagg_launch.runtime.gateway import Gateway

PROBES_PER_S = 500
"""All instances together are not probed more often than this."""
NUDGE_S = 0.05
"""A line in an instance's log may bring its next probe forward, to this long after the last."""
RESTING_PROBES_PER_S = 40
"""As PROBES_PER_S, once all is ready; and one instance is then probed at most every REST_S."""
REST_S = 2.0


class Lookout:
    """One probing task per instance, and one for the router once it is started."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway, self._fleet = gateway, gateway.fleet
        self._nudges: Dict[str, asyncio.Event] = {}

    def watch(self, ones: Iterable[Record]) -> None:
        """Begin to probe these."""
        launch = self._gateway.launch
        health = {**{w.instance: w.health for w in launch.workers}, ROUTER: launch.router.health}
        for one in ones:
            self._nudges[one.name] = asyncio.Event()
            self._gateway.spawn(self._probe(one, health[one.name]))

    def nudge(self, name: str) -> None:
        """It has just said something."""
        if name in self._nudges:
            self._nudges[name].set()

    async def _probe(self, one: Record, path: str) -> None:
        """Ask again and again; rarely once it is ready."""
        gateway, ready = self._gateway, self._gateway.launch.readiness
        count = len(self._fleet.records)
        pace_s = min(ready.interval_s, NUDGE_S if one is self._fleet.router else max(NUDGE_S, count / PROBES_PER_S))
        rest_s = max(ready.interval_s, REST_S, count / RESTING_PROBES_PER_S)
        while not self._fleet.stopping:
            if one.started and not one.ended and not one.missing:
                life = one.starts
                seen = await probe.probe(one.host, one.port, path, ready.probe_s)
                if one.started and one.starts == life and seen != one.seen:
                    one.seen = seen
                    gateway.wake.set()
            resting = gateway.state == "ready" and one.seen is not None and one.seen.healthy
            await asyncio.sleep(NUDGE_S)
            self._nudges[one.name].clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._nudges[one.name].wait(), rest_s if resting else pace_s)
