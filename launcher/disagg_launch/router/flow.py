"""The way of a request: a context worker for the prompt, a generation worker for the rest, and what to do when one of them fails."""

from __future__ import annotations

import asyncio
import re
from typing import Optional

from disagg_launch.plan import CONTEXT, GENERATION
from disagg_launch.router import events
from disagg_launch.router.config import Config
from disagg_launch.router.dialects import named
from disagg_launch.router.dispatch import Dispatch, given_up
from disagg_launch.router.exchange import Exchange, Kept, Prefill, Sink, WorkerFailed
from disagg_launch.router.held import Held
from disagg_launch.router.ids import mint
from disagg_launch.router.metrics import Metrics
from disagg_launch.router.relay import Relay
from disagg_launch.router.resume import go_on
from disagg_launch.router.splice import dumps
from disagg_launch.router.together import together
from disagg_launch.router.upstream import UpstreamError
from disagg_launch.router.workers import Worker

JSON = b"application/json"
_COUNT = re.compile(rb'"completion_tokens"\s*:\s*(\d+)')


class Flow:
    """Sends exchanges through the workers."""

    def __init__(self, config: Config, dispatch: Dispatch, metrics: Metrics, gen_only: bool = False) -> None:
        self._config = config
        self._door = config.front_door
        self._dispatch = dispatch
        self._metrics = metrics
        self._dialect = named(config.front_door.dialect)
        self._loop = asyncio.get_running_loop()
        self._both_hops = self._at_once if self._dialect.CONCURRENT or config.schedule == "generation_first" else self._in_turn
        self._way = self._generation_only if gen_only else self._both_hops if config.max_local_prefill is None else self._conditional

    async def serve(self, exchange: Exchange, sink: Sink) -> None:
        """Answer the exchange into the sink. Refused when there is an error to tell; it is told as an event if the sink has started."""
        self._dispatch.budget.earn()
        while True:
            exchange.kept = Kept() if exchange.stream else None
            exchange.number = number = mint()
            try:
                return await self._way(exchange, number, sink)
            except WorkerFailed as failure:
                if not self._dispatch.again(exchange, failure):
                    raise given_up(failure) from None
                if sink.started:
                    return await self._resume(exchange, sink, failure)

    async def stop(self) -> None:
        """Nothing more will be asked."""

    async def through(self, exchange: Exchange, sink: Sink) -> None:
        """Answer an exchange of both hops, once, by the workers that it names. WorkerFailed or Refused."""
        exchange.number = number = mint()
        await self._both_hops(exchange, number, sink)

    async def _resume(self, exchange: Exchange, sink: Sink, failure: WorkerFailed) -> None:
        """Go on where the stream broke off, through a fresh prefill of prompt and answer so far."""
        rest = go_on(exchange, sink) if self._door.resume else None
        if rest is None:
            raise given_up(failure) from None
        self._metrics.count("resumed_streams")
        if rest.finished:
            sink.piece(rest.finished)
            await sink.end()
        else:
            await self.serve(rest.exchange, rest.sink)
            exchange.ctx, exchange.gen, exchange.retries = rest.exchange.ctx, rest.exchange.gen, rest.exchange.retries

    async def _generation_only(self, exchange: Exchange, number: int, sink: Sink) -> None:
        exchange.body = {**exchange.body, "ignore_eos": True}
        await self._generate(exchange, self._dialect.no_prefill(), number, sink)

    async def _in_turn(self, exchange: Exchange, number: int, sink: Sink, reserved: Optional[Worker] = None) -> None:
        worker = await self._dispatch.take(CONTEXT, exchange)
        prefill = await self._prefill(worker, exchange, number)
        exchange.prefilled = self._loop.time()
        if prefill.finished:
            exchange.first = exchange.prefilled
            await events.send_whole(prefill.answer, exchange.stream, exchange.chat, sink)
        else:
            exchange.prompt_ids = prefill.ids
            exchange.number = prefill.number or number
            await self._generate(exchange, prefill, number, sink, reserved)

    async def _conditional(self, exchange: Exchange, number: int, sink: Sink) -> None:
        """Without a context worker, if a generation worker has enough of the prompt cached to do the rest of it by the way."""
        reserved = await self._dispatch.take(GENERATION, exchange)
        try:
            cached = self._dispatch.cached_tokens(reserved, exchange)
            if cached and exchange.ask.tokens - cached <= (self._config.max_local_prefill or 0):
                await self._generate(exchange, None, number, sink, reserved)
            else:
                await self._in_turn(exchange, number, sink, reserved)
        finally:
            self._dispatch.give_back(reserved, exchange)

    async def _at_once(self, exchange: Exchange, number: int, sink: Sink) -> None:
        """Both hops at once: the generation worker waits for the KV by itself."""
        worker = await self._dispatch.take(CONTEXT, exchange)
        early = self._dialect.early(exchange, number, worker)
        held = Held(sink)

        async def prefill() -> None:
            await self._prefill(worker, exchange, number, early)
            held.open()

        await together((prefill(), self._generate(exchange, early, number, held)))

    async def _prefill(self, worker: Worker, exchange: Exchange, number: int, early: Optional[Prefill] = None) -> Prefill:
        """What the context worker left behind; gives the worker back."""
        exchange.ctx = worker.url
        try:
            self._dispatch.sent(worker, exchange)
            body = self._dialect.context_body(exchange, number, early)
            answer = await self._call(worker, exchange, body)
            try:
                prefill = early or self._dialect.read_context(exchange, answer)
            except ValueError as wrong:
                raise WorkerFailed(worker, "garbage") from wrong
        finally:
            self._dispatch.give_back(worker, exchange)
        worker.succeeded()
        return prefill

    async def _generate(
        self, exchange: Exchange, prefill: Optional[Prefill], number: int, sink: Sink, reserved: Optional[Worker] = None
    ) -> None:
        """The answer, from a generation worker; without `prefill` it does the prompt too. A `reserved` worker stays the caller's."""
        body = self._dialect.generation_body(exchange, prefill, number) if prefill else dumps(exchange.body)
        worker = reserved or await self._dispatch.take(GENERATION, exchange)
        exchange.gen = worker.url
        try:
            self._dispatch.sent(worker, exchange)
            if exchange.stream:
                await self._stream(worker, exchange, body, sink)
            else:
                answer = await self._call(worker, exchange, body)
                exchange.first = self._loop.time()
                self._metrics.tokens += _tokens_of(answer)
                await sink.whole(200, JSON, answer)
        finally:
            if not reserved:
                self._dispatch.give_back(worker, exchange)
        worker.succeeded()

    async def _call(self, worker: Worker, exchange: Exchange, body: bytes) -> bytes:
        """One whole answer of status 200. WorkerFailed, Refused."""
        began = self._loop.time()
        try:
            status, answer = await worker.pool.call(b"POST", exchange.path, body, exchange.extra, self._door.request_timeout_s)
        except UpstreamError as error:
            raise WorkerFailed(worker, error.cause) from error
        if status != 200:
            raise self._dispatch.not_ok(worker, status, answer)
        took = self._loop.time() - began
        self._metrics.complete[worker.role].observe(took)
        self._metrics.first_token[worker.role].observe(took)
        return answer

    async def _stream(self, worker: Worker, exchange: Exchange, body: bytes, sink: Sink) -> None:
        pool, began = worker.pool, self._loop.time()
        try:
            connection = await pool.ask(
                b"POST", exchange.path, body, exchange.extra + self._dialect.STREAM_EXTRA, self._door.request_timeout_s
            )
            try:
                if connection.status != 200:
                    raise self._dispatch.not_ok(worker, connection.status, await connection.whole())
                await Relay(connection, exchange, sink, self._door.stall_timeout_s, self._metrics).run()
            finally:
                pool.put(connection)
        except UpstreamError as error:
            raise WorkerFailed(worker, error.cause) from error
        self._metrics.first_token[GENERATION].observe(exchange.first - began)
        self._metrics.complete[GENERATION].observe(self._loop.time() - began)
        await sink.end()


def _tokens_of(answer: bytes) -> int:
    """How many tokens a whole answer says it has; 0 if it does not say. It is not decoded for that."""
    at = answer.rfind(b'"completion_tokens"')
    found = _COUNT.match(answer, at) if at >= 0 else None
    return int(found[1]) if found else 0
