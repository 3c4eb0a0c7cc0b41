"""The deployment whose front door the workers of this run have joined: what its router is told, and its end, which is this run's too."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any, Dict, List, Tuple
from urllib.parse import urlsplit

from disagg_launch.errors import BackendRefused
from disagg_launch.runtime import folder, probe, wire
from disagg_launch.runtime.cluster import ROLE_IDS
from disagg_launch.runtime.record import Record

if TYPE_CHECKING:
    from disagg_launch.runtime.gateway import Gateway

LOOK_S = 1.0


class Joined:
    """`main` is the other's run folder. `open` before anything is started, `enter` when the workers are healthy, `watch` until the end."""

    def __init__(self, gateway: Gateway, main: str) -> None:
        self._gateway = gateway
        self._main = os.path.normpath(os.path.join(gateway.run, main))
        self._address = ""
        self.token = ""
        self.heeded = False

    def open(self) -> None:
        """Learn where its router is. BackendRefused if it is not up, or its front door is not where this run's workers would register."""
        _, launch = folder.read(self._main)
        state = folder.call(self._main, {"kind": "state"})["state"]
        if state != "ready":
            raise BackendRefused(f"{self._main}, whose front door this run is for, is {state}: scale it again when it is ready")
        self._address, self.token = self._now()
        with open(os.path.join(self._main, "state", "status.json"), encoding="utf-8") as file:
            told = json.load(file)["router"]
        url, inside = urlsplit(told["url"]), urlsplit(told["inside"])
        fleet, meant = self._gateway.fleet, self._gateway.launch.router
        if meant.host and f"{meant.host}:{meant.port}" not in (url.netloc, inside.netloc):
            raise BackendRefused(f"the front door was at {meant.host}:{meant.port} and is at {inside.netloc} now: scale {self._main} again")
        fleet.router.scheme, fleet.router.host, fleet.router.port = url.scheme, url.hostname or "", url.port or 0
        fleet.told_at = inside.port or 0
        self.heeded = launch.router.proves == "pairs"

    async def enter(self) -> None:
        """Come back when the router sends requests to every worker of this run that is healthy and proved; who is not has ended."""
        await asyncio.gather(*(self._enter(one) for one in self._gateway.scaling.awake()))

    async def _enter(self, one: Record) -> None:
        gateway = self._gateway
        await gateway.repair.tell_router(one, "undrain")
        if gateway.proof.by_pairs:
            await gateway.repair.tell_router(one, "drain")  # known there, and not used before it is proved
            why = await gateway.proof.of_one(one)
            if why:
                one.end(f"healthy, but {why}", gateway.loop.time())
                await gateway.repair.tell_router(one, "gone")
                return
            await gateway.repair.tell_router(one, "undrain")
        await gateway.scaling.routed(one)

    async def serving(self, role: str) -> List[Record]:
        """The other deployment's instances of a role, and of further jobs, to which its router sends requests."""
        gateway = self._gateway
        router, patience_s = gateway.fleet.router, gateway.launch.readiness.probe_s
        _, rows = await probe.ask(router.host, gateway.fleet.told_at, "/admin/workers", None, self.token, patience_s)
        wanted = [row for row in rows or () if isinstance(row, dict) and (row["role"], row["state"]) == (ROLE_IDS[role], "ready")]
        return [Record(f"{row['host']}:{row['port']}", row["host"], row["port"], "", role=role) for row in wanted]

    async def watch(self) -> None:
        """Have this run end when the other's gateway has ended, or was not heard of for as long as a lost node may be silent."""
        gateway = self._gateway
        heard_s = gateway.loop.time()
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await gateway.loop.run_in_executor(None, folder.call, self._main, {"kind": "state"})
                if (await gateway.loop.run_in_executor(None, self._now))[0] == self._address:
                    heard_s = gateway.loop.time()
                    continue
                why = "has been started anew"
            except (BackendRefused, OSError, ValueError, KeyError) as silent:
                why = f"does not answer any more ({silent})"
            over = await gateway.loop.run_in_executor(None, self._over)
            if over or gateway.loop.time() - heard_s > gateway.launch.policy.fence_s:
                gateway.board.note(f"the deployment that this run joined {why}")
                gateway.end_in_order()
                return

    def _now(self) -> Tuple[str, str]:
        with open(os.path.join(self._main, "state", "gateway.json"), encoding="utf-8") as file:
            found: Dict[str, Any] = json.load(file)
        return found["address"], wire.read_token(self._main).decode()

    def _over(self) -> bool:
        """Whether the other run says itself that it has ended."""
        try:
            with open(os.path.join(self._main, "state", "status.json"), encoding="utf-8") as file:
                state: str = json.load(file)["state"]
        except (OSError, ValueError, KeyError):
            return False
        return state not in ("starting", "ready", "stopping")
