"""The way of a request: a context worker for the prompt, a generation worker for the rest, and what to do when one of them fails."""

from __future__ import annotations

import asyncio
import time
from typing import Optional

from disagg_launch.plan import CONTEXT, GENERATION
from disagg_launch.router import policies
from disagg_launch.router.admission import Queue
from disagg_launch.router.config import Config
from disagg_launch.router.dialects import named
from disagg_launch.router.exchange import Exchange, Prefill, Sink, WorkerFailed, passed_on, refusal
from disagg_launch.router.metrics import Metrics
from disagg_launch.router.upstream import Connection, UpstreamError
from disagg_launch.router.workers import Table, Worker

JSON, EVENTS = b"application/json", b"text/event-stream"
DONE = b"data: [DONE]\n\n"


class Budget:
    """How many requests may be sent again: half as many as come in, and a few to begin with, so that failures never multiply load."""

    FIRST, SHARE, MOST = 32.0, 0.5, 2048.0

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


class Flow:
    """Sends exchanges through the workers of a table."""

    def __init__(self, config: Config, table: Table, metrics: Metrics) -> None:
        door = config.front_door
        self._config = config
        self._door = door
        self.table = table
        self.metrics = metrics
        self.queue = Queue(door.max_queue, door.queue_timeout_s)
        self.memory = {role: policies.Memory(config.roles[role].options) for role in (CONTEXT, GENERATION)}
        self._choose = {role: policies.POLICIES[config.roles[role].policy] for role in (CONTEXT, GENERATION)}
        self._dialect = named(door.dialect)
        self._budget = Budget()
        self._loop = asyncio.get_running_loop()

    async def serve(self, exchange: Exchange, sink: Sink) -> None:
        """Answer the exchange into the sink. Refused when there is an error to tell and nothing was sent yet."""
        self._budget.earn()
        while True:
            try:
                await self._once(exchange, sink)
                return
            except WorkerFailed as failure:  # noqa: PERF203
                self._failed(exchange, failure)
                if sink.started or not self._again(exchange, failure):
                    raise self._given_up(failure) from None

    async def _once(self, exchange: Exchange, sink: Sink) -> None:
        number = mint()
        prefill = await self._prefill(exchange, number)
        exchange.prefilled = self._loop.time()
        if prefill.finished:
            await _finished(exchange, prefill, sink)
            return
        await self._generate(exchange, prefill, number, sink)

    async def _prefill(self, exchange: Exchange, number: int) -> Prefill:
        body = self._dialect.context_body(exchange, number)
        worker = await self._take(CONTEXT, exchange)
        exchange.ctx = worker.url
        try:
            status, answer = await self._call(worker, exchange, body)
            if status != 200:
                raise self._not_ok(worker, status, answer)
            try:
                prefill = self._dialect.read_context(exchange, answer)
            except ValueError as wrong:
                raise WorkerFailed(worker, f"garbage: {wrong}") from None
        finally:
            self._give_back(worker, exchange)
        worker.succeeded()
        return prefill

    async def _generate(self, exchange: Exchange, prefill: Prefill, number: int, sink: Sink) -> None:
        body = self._dialect.generation_body(exchange, prefill, number)
        worker = await self._take(GENERATION, exchange)
        exchange.gen = worker.url
        try:
            if exchange.stream:
                await self._stream(worker, exchange, body, sink)
            else:
                status, answer = await self._call(worker, exchange, body)
                if status != 200:
                    raise self._not_ok(worker, status, answer)
                exchange.first = self._loop.time()
                await sink.whole(200, JSON, answer)
        finally:
            self._give_back(worker, exchange)
        worker.succeeded()

    async def _call(self, worker: Worker, exchange: Exchange, body: bytes) -> tuple[int, bytes]:
        """(status, body) of one whole answer. WorkerFailed."""
        pool, began = worker.pool, self._loop.time()
        try:
            connection = await pool.ask(b"POST", exchange.path, body, exchange.extra, self._door.request_timeout_s)
            try:
                answer = await connection.whole()
            finally:
                pool.put(connection)
        except UpstreamError as error:
            raise WorkerFailed(worker, error.cause) from error
        took = self._loop.time() - began
        self.metrics.complete[worker.role].observe(took)
        self.metrics.first_token[worker.role].observe(took)
        return connection.status, answer

    async def _stream(self, worker: Worker, exchange: Exchange, body: bytes, sink: Sink) -> None:
        pool, began = worker.pool, self._loop.time()
        try:
            connection = await pool.ask(b"POST", exchange.path, body, exchange.extra, self._door.request_timeout_s)
            try:
                if connection.status != 200:
                    raise self._not_ok(worker, connection.status, await connection.whole())
                await self._relay(connection, exchange, sink)
            finally:
                pool.put(connection)
        except UpstreamError as error:
            raise WorkerFailed(worker, error.cause) from error
        self.metrics.first_token[GENERATION].observe(exchange.first - began)
        self.metrics.complete[GENERATION].observe(self._loop.time() - began)
        await sink.end()

    async def _relay(self, connection: Connection, exchange: Exchange, sink: Sink) -> None:
        """Pass whole events on as they come; nothing looks into them. UpstreamError if the stream ends without its last event."""
        clock, stall, observe = self._loop.time, self._door.stall_timeout_s, self.metrics.inter_token.observe
        rest = last = b""
        before = 0.0
        while data := await connection.read():
            now = clock()
            connection.deadline = now + stall if stall else 0.0
            if rest:
                data = rest + data
                rest = b""
            if not data.endswith(b"\n\n"):
                data, rest = _whole_events(data)
                if not data:
                    continue
            if before:
                observe(now - before)
            else:
                exchange.first = now
            before = now
            last = data
            await sink.piece(data)
        if rest or not last.endswith(b"[DONE]\n\n"):
            raise UpstreamError("truncated", "the stream ended without [DONE]")

    # choosing

    async def _take(self, role: str, exchange: Exchange) -> Worker:
        """A worker for this role, counted as busy with the exchange; give it back. Refused if there is none in time."""
        worker = self._pick(role, exchange)
        if worker is None:
            began = self._loop.time()
            why = f"no {role} worker is ready" if not self.table.usable(role) else f"every {role} worker is busy"
            worker = await self.queue.wait(
                exchange.client, lambda: self._pick(role, exchange), lambda picked: self._give_back(picked, exchange), why
            )
            exchange.queued_s += self._loop.time() - began
        self.metrics.queue.observe(exchange.queued_s)
        return worker

    def _pick(self, role: str, exchange: Exchange) -> Optional[Worker]:
        rows = self.table.free(role, exchange.failed)
        if not rows and exchange.failed:
            rows = self.table.free(role)
        if not rows:
            return None
        memory = self.memory[role]
        worker: Worker = rows[0] if len(rows) == 1 else self._choose[role](rows, exchange.ask, memory)
        worker.take(exchange.ask.tokens)
        if exchange.ask.session or exchange.ask.blocks:
            memory.saw(worker.url, exchange.ask)
        return worker

    def _give_back(self, worker: Worker, exchange: Exchange) -> None:
        worker.give_back(exchange.ask.tokens)
        if self.queue.length:
            self.queue.advance()

    # failing

    def _not_ok(self, worker: Worker, status: int, answer: bytes) -> Exception:
        """4xx is the request's own fault and passed on as it is; a 429 or a 5xx may go better elsewhere."""
        if status < 500 and status != 429:
            worker.succeeded()
            return passed_on(status, answer)
        return WorkerFailed(worker, f"status {status}", (status, answer))

    def _failed(self, exchange: Exchange, failure: WorkerFailed) -> None:
        worker = failure.worker
        if worker not in exchange.failed:
            exchange.failed.append(worker)
            if not (failure.answer and failure.answer[0] == 429):
                self.table.failed(worker, self._loop.time())

    def _again(self, exchange: Exchange, failure: WorkerFailed) -> bool:
        """Whether to send it again: to every other worker once, to those that have failed it `max_retries` times, within the budget."""
        role = failure.worker.role
        spent = exchange.retries >= self._config.max_retries + len(exchange.failed) - 1
        if spent and not self.table.free(role, exchange.failed):
            return False
        if not self._budget.spend():
            return False
        exchange.retries += 1
        failure.worker.retries += 1
        self.metrics.retried(role, failure.cause.split(":")[0])
        return True

    def _given_up(self, failure: WorkerFailed) -> Exception:
        if failure.answer:
            return passed_on(*failure.answer)
        return refusal(502, f"the {failure.worker.role} worker failed ({failure.cause.split(':')[0]})", retry_after_s=1)


def _whole_events(data: bytes) -> tuple[bytes, bytes]:
    """(whole events, the beginning of the next one). Events end in an empty line."""
    end = data.rfind(b"\n\n") + 2
    if end == 1:
        end = data.rfind(b"\r\n\r\n") + 4
        if end == 3:
            return b"", data
    return data[:end], data[end:]


_EPOCH_MS = 1_700_000_000_000
_last = 0


def mint(node: int = 0) -> int:
    """The next `disagg_request_id`: 39 bits of milliseconds, 8 of node, 16 to keep this process's apart; in [2^40, 2^63), growing."""
    global _last
    stamp = ((time.time_ns() // 1_000_000 - _EPOCH_MS) & (1 << 39) - 1) << 24 | node << 16
    _last = max(stamp, _last + 1)
    return _last


async def _finished(exchange: Exchange, prefill: Prefill, sink: Sink) -> None:
    """The context worker's answer was the whole answer."""
    from disagg_launch.router import events

    exchange.first = exchange.prefilled
    if not exchange.stream:
        await sink.whole(200, JSON, events.dumps(prefill.answer))
        return
    await sink.piece(events.as_stream(prefill.answer, exchange.chat) + DONE)
    await sink.end()
