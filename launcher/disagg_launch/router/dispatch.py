"""Giving requests to workers: which one, waiting until one is free, and whether a failed request is sent again."""

from __future__ import annotations

import asyncio
from typing import Optional

from disagg_launch.plan import CONTEXT, GENERATION
from disagg_launch.router import policies
from disagg_launch.router.admission import Queue
from disagg_launch.router.config import Config
from disagg_launch.router.exchange import Exchange, Refused, WorkerFailed, passed_on, refusal
from disagg_launch.router.metrics import Metrics
from disagg_launch.router.workers import Table, Worker


class Budget:
    """How many requests may be sent again: half as many as come in, and a few to begin with, so that failures never multiply load."""

    FIRST, SHARE, MOST = 32.0, 0.5, 4096.0

    def __init__(self) -> None:
        self._left = self.FIRST

    def earn(self) -> None:
        """A request came in."""
        if self._left < self.MOST:
            self._left += self.SHARE

    def spend(self) -> bool:
        """Whether one more may be sent again."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Dispatch:
    """The table of workers with the policies, the queue and the memory of what was sent where."""

    def __init__(self, config: Config, table: Table, metrics: Metrics) -> None:
        self.table = table
        self.queue = Queue(config.front_door.max_queue, config.front_door.queue_timeout_s)
        self.budget = Budget()
        self._metrics = metrics
        self._max_retries = config.max_retries
        self._memory = {role: policies.Memory(config.roles[role].options) for role in (CONTEXT, GENERATION)}
        self._choose = {role: policies.POLICIES[config.roles[role].policy] for role in (CONTEXT, GENERATION)}
        self._loop = asyncio.get_running_loop()
        self.waiting: dict[str, dict[object, float]] = {CONTEXT: {}, GENERATION: {}}
        """By role, since when each waiting request has waited; the oldest first."""

    async def take(self, role: str, exchange: Exchange) -> Worker:
        """A worker for this role, counted as busy with the exchange until `give_back`. Refused if there is none in time."""
        if exchange.only is not None:
            exchange.only[role].take(exchange.ask.tokens)
            return exchange.only[role]
        worker = self._pick(role, exchange)
        if worker is None:
            return await self._wait(role, exchange)
        self._metrics.turn[role].observe(0.0)
        return worker

    async def _wait(self, role: str, exchange: Exchange) -> Worker:
        mark, began = object(), self._loop.time()
        self.waiting[role][mark] = began
        why = f"every {role} worker is busy" if self.table.usable(role) else f"no {role} worker is ready"
        pick, undo = lambda: self._pick(role, exchange), lambda picked: self.give_back(picked, exchange)
        try:
            return await self.queue.wait(exchange.client, pick, undo, why)
        except Refused:
            self._metrics.count("shed_requests")
            raise
        finally:
            del self.waiting[role][mark]
            waited_s = self._loop.time() - began
            exchange.queued_s += waited_s
            self._metrics.turn[role].observe(waited_s)

    def give_back(self, worker: Worker, exchange: Exchange) -> None:
        """The worker is no longer busy with the exchange."""
        worker.give_back(exchange.ask.tokens)
        if self.queue.length:
            self.queue.advance()

    def cached_tokens(self, worker: Worker, exchange: Exchange) -> int:
        """How many tokens of the prompt the worker has seen before."""
        blocks = exchange.ask.blocks
        return exchange.ask.tokens * self._memory[worker.role].matched(worker.url, exchange.ask) // len(blocks) if blocks else 0

    def sent(self, worker: Worker, exchange: Exchange) -> None:
        """The exchange goes to the worker: remember its session and its prompt's beginning."""
        if exchange.ask.session or exchange.ask.blocks:
            self._memory[worker.role].saw(worker.url, exchange.ask)

    def changed(self, worker: Worker) -> None:
        """A worker's state is another: those who wait may be served now; one that is gone has no cache any more."""
        if not worker.usable:
            for memory in self._memory.values():
                memory.forget(worker.url)
        self.queue.advance()

    def _pick(self, role: str, exchange: Exchange) -> Optional[Worker]:
        rows = self.table.free(role)
        if exchange.failed:  # whoever failed it gets it again only if nobody else is there, and before them whoever is only doubted
            rows = self.table.free(role, (*exchange.failed, *exchange.doubted)) or self.table.free(role, exchange.failed) or rows
        if not rows:
            return None
        worker: Worker = rows[0] if len(rows) == 1 else self._choose[role](rows, exchange.ask, self._memory[role])
        worker.take(exchange.ask.tokens)
        return worker

    # failing

    def not_ok(self, worker: Worker, status: int, answer: bytes) -> Exception:
        """What a status that is not 200 means: a 4xx is the request's own fault and passed on; a 429 or 5xx may go better elsewhere."""
        if status < 500 and status != 429:
            worker.succeeded()
            return passed_on(status, answer)
        return WorkerFailed(worker, f"status {status}", (status, answer))

    def again(self, exchange: Exchange, failure: WorkerFailed) -> bool:
        """Whether a failed exchange is sent again: to each other worker once, to those that failed it `max_retries` times, in budget.

        Counts the failure against its worker: once for each exchange, and not at all when the worker only said that it is busy.
        """
        worker = failure.worker
        if worker.role == GENERATION and failure.answer and failure.answer[0] >= 500:  # perhaps the KV that it was told of is not there
            exchange.doubted += tuple(one for one in self.table.of(CONTEXT) if one.url == exchange.ctx)
        if worker not in exchange.failed:
            exchange.failed = (*exchange.failed, worker)
            if failure.cause != "status 429":
                self.table.failed(worker, self._loop.time())
        spent = exchange.retries >= self._max_retries + len(exchange.failed) - 1
        if (spent and not self.table.free(worker.role, exchange.failed)) or not self.budget.spend():
            return False
        exchange.retries += 1
        worker.retries += 1
        self._metrics.retried(worker.role, failure.cause)
        return True


def given_up(failure: WorkerFailed) -> Refused:
    """What the client is told when nothing helped: the worker's own words, if it had any."""
    if failure.answer:
        return passed_on(*failure.answer)
    return refusal(502, f"the {failure.worker.role} worker failed ({failure.cause})", retry_after_s=1)
