"""Keeping the table of workers true: who is probed, who came back, who went silent, and what may be said about it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Callable, Optional

import orjson

from disagg_launch.plan import CONTEXT, GENERATION
from disagg_launch.router.config import Config
from disagg_launch.router.dialects import named
from disagg_launch.router.exchange import refusal
from disagg_launch.router.splice import dumps
from disagg_launch.router.upstream import Pool, UpstreamError
from disagg_launch.router.workers import State, Table, Worker

SWEEP_S = 0.25
JOINING_INTERVAL_S = 0.1  # between two probes of a worker that is not up yet
SILENT_PROBES_TO_GONE = 3
ROLE_IDS = {CONTEXT: 0, GENERATION: 1}
_NOT_UP = (State.JOINING, State.GONE, State.SUSPECT)


class Fleet:
    """The workers of one router process: made from the configuration, probed until `stop`."""

    def __init__(self, config: Config, table: Table, changed: Callable[[Worker], None]) -> None:
        self.config = config
        self._changed = changed
        self.table = table
        self._dialect = named(config.front_door.dialect)
        self._at_once = self._dialect.CONCURRENT or config.schedule == "generation_first"
        self._probes: dict[Worker, asyncio.Task[None]] = {}
        self._sweeper: Optional[asyncio.Task[None]] = None
        self.closed = False
        """Whether clients are still kept out: the admin then tries the workers, and who is still loading is not asked all the time."""

    async def start(self) -> None:
        """Put in the configured workers and begin to probe them."""
        for name, role in self.config.roles.items():
            for url in () if self.config.discovers else role.urls:
                self.add(name, url)
        self._sweeper = asyncio.ensure_future(self._sweep())

    async def stop(self) -> None:
        """No more probes; every connection is dropped."""
        tasks = [*self._probes.values(), *([self._sweeper] if self._sweeper else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for worker in self.table.by_url.values():
            worker.pool.abort("stopped")

    def add(self, role: str, url: str) -> Worker:
        """The worker of this role at this url, put in if it is new."""
        worker = self.table.by_url.get((role, url))
        if worker is None:
            worker = Worker(url, role, Pool(url, self.config.front_door.connect_timeout_s))
            self.table.add(worker)
            self._probes[worker] = asyncio.ensure_future(self._probe(worker))
        return worker

    def remove(self, worker: Worker) -> None:
        """Take a worker out for good."""
        self._change(worker, State.GONE)
        self.table.remove(worker)
        self._probes.pop(worker).cancel()

    def change(self, worker: Worker, state: State) -> None:
        """What the outside knows of a worker: exited (gone), come back (joining), to be left alone (draining), or ready."""
        worker.draining = state is State.DRAINING
        self._change(worker, state)
        self._probes.pop(worker).cancel()
        self._probes[worker] = asyncio.ensure_future(self._probe(worker))

    def _change(self, worker: Worker, state: State) -> None:
        self.table.change(worker, state)
        self._changed(worker)

    def open(self) -> None:
        """Let clients in; who is not known to be up is looked at now."""
        self.closed = False
        for worker, probe in list(self._probes.items()):
            if worker.state in _NOT_UP:
                probe.cancel()
                self._probes[worker] = asyncio.ensure_future(self._probe(worker))

    @property
    def ready(self) -> bool:
        """Whether clients are let in and there are as many workers as there must be: one for each hop, or what a cluster says."""
        return not self.lacking()

    def lacking(self) -> str:
        """What is missing to be ready, as in "0 of 1 context servers are ready"; "" if nothing is."""
        if self.closed:
            return "the front door is not open yet"
        for role in (CONTEXT, GENERATION):
            there, needed = len(self.table.usable(role)), self.config.minimal(role)
            if there < needed:
                return f"{there} of {needed} {role} servers are ready"
        return ""

    def info(self) -> dict[str, Any]:
        """The body of /cluster_info."""

        def rows(role: str) -> list[dict[str, Any]]:
            return [row(w) for w in self.table.of(role) if w.state not in (State.GONE, State.JOINING)]

        current = {"context_servers": rows(CONTEXT), "generation_servers": rows(GENERATION)}
        minimal = {"context_servers": self.config.minimal(CONTEXT), "generation_servers": self.config.minimal(GENERATION)}
        return {"is_ready": self.ready, "current_workers": current, "minimal_instances": minimal}

    async def models(self) -> bytes:
        """The body of /v1/models: a worker's own; the configured name when there is no worker to ask."""
        for worker in [*self.table.usable(GENERATION), *self.table.usable(CONTEXT)]:
            with contextlib.suppress(UpstreamError):
                status, body = await worker.pool.call(b"GET", b"/v1/models", b"", b"", self.config.front_door.health_timeout_s)
                if status == 200:
                    return body
        if not self.config.model:
            raise refusal(503, "no worker is ready to say which model it serves", retry_after_s=1)
        model = {"id": self.config.model, "object": "model", "created": 0, "owned_by": "disagg-launch"}
        return dumps({"object": "list", "data": [model]})

    async def _probe(self, worker: Worker) -> None:
        door = self.config.front_door
        while True:
            await self.look(worker)
            waiting = worker.state in _NOT_UP and not self.closed
            await asyncio.sleep(min(JOINING_INTERVAL_S, door.health_interval_s) if waiting else door.health_interval_s)

    async def look(self, worker: Worker) -> None:
        """Ask a worker for its health now, and for what it offers if it was not ready before."""
        worker.pool.heard = False
        try:
            status, _ = await worker.pool.call(b"GET", b"/health", b"", b"", self.config.front_door.health_timeout_s)
        except UpstreamError:
            status = 0
        if status == 200 and worker.state is not State.READY and worker.role == CONTEXT and self._at_once:
            await self._learn(worker)
        self._judge(worker, status, asyncio.get_running_loop().time())

    async def _learn(self, worker: Worker) -> None:
        """Ask a context worker what is needed to ask both hops at once; one that does not say offers nothing."""
        with contextlib.suppress(UpstreamError, ValueError):
            status, body = await worker.pool.call(b"GET", b"/server_info", b"", b"", self.config.front_door.health_timeout_s)
            info = orjson.loads(body) if status == 200 else {}
            worker.offers = self._dialect.offers(info) if isinstance(info, dict) else {}

    def _judge(self, worker: Worker, status: int, now: float) -> None:
        if worker.draining:
            return
        if status == 200:
            worker.silent_probes = 0
            if worker.state is not State.READY and not (worker.state is State.SUSPECT and now < worker.paused_until):
                self._change(worker, State.READY)
        elif worker.state in (State.READY, State.SUSPECT) and not worker.pool.heard:
            worker.silent_probes += 1
            if worker.silent_probes >= SILENT_PROBES_TO_GONE:
                self._change(worker, State.GONE)

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_S)
            for worker in list(self.table.by_url.values()):
                worker.pool.sweep(loop.time())


def row(worker: Worker) -> dict[str, Any]:
    """A worker as /cluster_info and /admin/workers show it."""
    host, _, port = worker.url.rpartition(":")
    name = worker.worker_id or worker.url
    told = {"worker_id": name, "host": host, "port": int(port), "role": ROLE_IDS[worker.role]}
    return {**told, "state": worker.state.value, "active": worker.active, "completed": worker.completed, "streamed": worker.pool.streamed}
