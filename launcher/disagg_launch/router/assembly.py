"""One configuration at work: everything between the clients' connections and the workers, put together, begun and ended as one.

A changed file becomes a second assembly beside the first, which finishes what it has in hand: no request meets two configurations.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import fields, replace
from typing import Callable, Iterator

from disagg_launch.discovery.attach import attach
from disagg_launch.page.attach import attach as attach_page
from disagg_launch.router.admin import Admin
from disagg_launch.router.app import App
from disagg_launch.router.config import Config, FrontDoor
from disagg_launch.router.dispatch import Dispatch
from disagg_launch.router.fleet import Fleet
from disagg_launch.router.flow import Flow
from disagg_launch.router.load import load
from disagg_launch.router.metrics import Metrics
from disagg_launch.router.processes import Siblings
from disagg_launch.router.workers import State, Table

GEN_ONLY = "TRTLLM_DISAGG_BENCHMARK_GEN_ONLY"  # upstream's switch: 1 measures generation workers alone
LOOK_S = 0.1
# what is bound to sockets, processes or workers' entries: a running router keeps it
_FIXED = ("host", "port", "cluster", "metadata")
_FIXED_OF_DOOR = (
    "dialect", "processes", "admin_port", "cluster_token_file", "cluster_open", "tls_cert_file", "tls_key_file", "plain_address",
)  # fmt: skip


class Assembly:
    """To be made and used in the event loop. `admin` is asked for the admin of the router as it is then."""

    def __init__(self, config: Config, metrics: Metrics, siblings: Siblings, admin: Callable[[], Admin]) -> None:
        self.config = config
        self.table = Table(config.front_door.max_in_flight_per_worker)
        self.dispatch = dispatch = Dispatch(config, self.table, metrics)
        self.fleet = Fleet(config, self.table, dispatch.changed)
        self._flow = flow_of(config)(config, dispatch, metrics, os.environ.get(GEN_ONLY) == "1")
        self._discovery = attach(self.fleet, config)
        self._page = attach_page(self.fleet, config, metrics, admin)
        # whoever has TLS wants nobody to type a token past it
        inner = {**self._discovery.mounts, **({} if config.front_door.plain_address else self._page.mounts)}
        # whoever gives acting a port of its own does not want it, nor what it is about, on the port that clients reach
        page = {} if config.front_door.admin_port else self._page.mounts
        outer = page if config.storage_inside else {**self._discovery.mounts, **page}
        self.app = App(self.fleet, self._flow, metrics, outer, inner, siblings, lambda: load(dispatch, metrics))

    async def start(self, before: Assembly | None = None) -> None:
        """Begin to probe the workers: those of the configuration, and those that the assembly `before` was told of."""
        self.fleet.closed = before.fleet.closed if before else self.fleet.closed
        await self.fleet.start()
        if before is None:
            return
        for (role, url), worker in before.table.by_url.items():
            if url not in before.config.roles[role].urls:
                self.fleet.add(role, url)
            if worker.draining and (role, url) in self.table.by_url:
                self.fleet.change(self.table.by_url[role, url], State.DRAINING)

    async def ready(self, limit_s: float) -> None:
        """Until there are enough workers, or for as long as is worth waiting for them."""
        late = asyncio.get_running_loop().time() + limit_s
        while not self.fleet.ready and asyncio.get_running_loop().time() < late:
            await asyncio.sleep(LOOK_S)

    async def idle(self) -> None:
        """Until no request is under way."""
        while self.dispatch.queue.length or any(worker.active for worker in self.table.by_url.values()):
            await asyncio.sleep(LOOK_S)

    async def stop(self) -> None:
        """No probes, no connections, everything written down."""
        await self._page.stop()
        await self._discovery.stop()
        await self.fleet.stop()
        await self._flow.stop()
        await self.app.access.close()


def flow_of(config: Config) -> type[Flow]:
    """The way of requests, with tracing if it is asked for. BadInput if what that needs is not installed."""
    if not config.otlp_traces_endpoint:
        return Flow
    from disagg_launch.router.tracing import TracedFlow

    return TracedFlow


def renewed(old: Config, new: Config) -> Config:
    """The new configuration as far as a running router can take it over."""
    door = replace(new.front_door, **{name: getattr(old.front_door, name) for name in _FIXED_OF_DOOR})
    return replace(new, front_door=door, **{name: getattr(old, name) for name in _FIXED})


def unchangeable(old: Config, new: Config) -> Iterator[str]:
    """The keys that differ but need a restart."""
    yield from (name for name in _FIXED if getattr(old, name) != getattr(new, name))
    for one in fields(FrontDoor):
        if one.name in _FIXED_OF_DOOR and getattr(old.front_door, one.name) != getattr(new.front_door, one.name):
            yield f"front_door.{one.name}"
