"""/perf_metrics: what router and workers know about finished requests, joined on the request id of the context worker."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

import orjson

from disagg_launch.plan import CONTEXT, GENERATION
from disagg_launch.router.exchange import Exchange
from disagg_launch.router.upstream import UpstreamError
from disagg_launch.router.workers import Table, Worker

PATIENCE_S = 5.0


class Perf:
    """A ring of the newest `limit` requests; 0 keeps none. Reading takes out what is complete."""

    def __init__(self, table: Table, limit: int) -> None:
        self.on = limit > 0
        self._table = table
        self._records: deque[tuple[int, dict[str, Any]]] = deque(maxlen=limit or 1)
        # by role, then by ctx_request_id: what workers have said of requests that are not complete yet
        self._said: dict[str, dict[int, Any]] = {CONTEXT: {}, GENERATION: {}}
        self._limit = limit

    def add(self, exchange: Exchange, now: float) -> None:
        """A request was answered; `now` is of the event loop's clock."""
        wall = time.time() - now
        record = {"ctx_server": exchange.ctx, "gen_server": exchange.gen, "disagg_server_arrival_time": wall + exchange.began}
        record["disagg_server_first_token_time"] = wall + exchange.first
        self._records.append((exchange.number, record))

    async def take(self) -> list[dict[str, Any]]:
        """The entries that are complete by now, which are not given again."""
        workers = [*self._table.of(CONTEXT), *self._table.of(GENERATION)]
        await asyncio.gather(*(self._ask(worker) for worker in workers))
        done, kept = [], []
        for number, record in self._records:
            ctx, gen = self._said[CONTEXT].pop(number, None), self._said[GENERATION].get(number)
            if ctx is None or gen is None:
                if ctx is not None:
                    self._said[CONTEXT][number] = ctx
                kept.append((number, record))
                continue
            del self._said[GENERATION][number]
            done.append({**record, "ctx_perf_metrics": ctx, "gen_perf_metrics": gen})
        self._records = deque(kept, maxlen=self._limit or 1)
        return done

    async def _ask(self, worker: Worker) -> None:
        try:
            status, body = await worker.pool.call(b"GET", b"/perf_metrics", b"", b"", PATIENCE_S)
            entries = orjson.loads(body) if status == 200 else []
        except (UpstreamError, ValueError):
            return
        said = self._said[worker.role]
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, dict) and isinstance(entry.get("ctx_request_id") or entry.get("request_id"), int):
                said[entry.get("ctx_request_id") or entry["request_id"]] = entry
        while len(said) > 4 * max(self._limit, 1):
            del said[next(iter(said))]
